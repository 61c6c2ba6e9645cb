//! Prefix rewriting: every combination of slashes, stripped or kept, and never a double slash.

use fairlead_tests::client::get;
use fairlead_tests::world::{SidecarFlags, World};

#[tokio::test]
async fn s6_prefixes_are_stripped_or_kept_without_a_double_slash() {
    // Path of the rule, what takes its place, and by request what the backend must see.
    let mut cases = Vec::new();
    for (number, (slash_of_rule, slash_of_service)) in
        [("", ""), ("", "/"), ("/", ""), ("/", "/")].into_iter().enumerate()
    {
        let (strip, keep) = (format!("/tv{number}"), format!("/fv{number}"));
        cases.push((
            format!("{strip}{slash_of_rule}"),
            format!("/s{slash_of_service}"),
            vec![
                (format!("{strip}/req"), vec!["/s/req".to_owned()]),
                (strip.clone(), vec!["/s".to_owned(), format!("/s{slash_of_service}")]),
                (format!("{strip}/req?a=/b//c"), vec!["/s/req?a=/b//c".to_owned()]),
            ],
        ));
        cases.push((
            format!("{keep}{slash_of_rule}"),
            format!("/s{keep}{slash_of_service}"),
            vec![
                (format!("{keep}/req"), vec![format!("/s{keep}/req")]),
                (keep.clone(), vec![format!("/s{keep}"), format!("/s{keep}{slash_of_service}")]),
            ],
        ));
    }
    cases.push((
        "/root".to_owned(),
        "/".to_owned(),
        vec![
            ("/root/req".to_owned(), vec!["/req".to_owned()]),
            ("/root".to_owned(), vec!["/".to_owned()]),
            ("/root/".to_owned(), vec!["/".to_owned()]),
        ],
    ));

    let mut route = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: s, namespace: shop}
spec:
  parentRefs: [{name: s}]
  rules:
"
    .to_owned();
    for (path, replacement, _) in &cases {
        route += &format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {replacement}}}}}}}]
    backendRefs: [{{name: s, port: 8080}}]
"
        );
    }
    let mut world = World::new();
    let _backends = world.backends("shop/s", 8080, "http", 1).await;
    world.apply("route", &route);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/s:8080"])).await;
    let address = sidecar.upstream("shop/s:8080").await;

    let mut wrong = Vec::new();
    for (path, replacement, requests) in &cases {
        for (request, allowed) in requests {
            let answer = get(address, request).await.unwrap();
            let seen =
                if answer.status == 200 { answer.json()["path"].clone() } else { answer.text().into() };
            if !allowed.iter().any(|one| seen == **one) {
                wrong.push(format!("{path} -> {replacement}: {request} became {seen}, not {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A prefix ends at a slash.
    assert_eq!(get(address, "/tv0x").await.unwrap().status, 404);
}
