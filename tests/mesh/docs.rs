//! The documentation says what is so: generated pages are current, YAML is valid, commands that need no cluster
//! run, links lead somewhere, and messages that a page quotes are in the code.

use std::fs;
use std::path::Path;

use fairlead_tests::blocks::{self, root};
use fairlead_tests::{program, reference};
use serde_json::Value;

/// The pages for people, generated ones too.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for folder in ["docs", "docs/reference"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    pages
}

#[test]
fn reference_is_current() {
    for (name, text) in reference::pages() {
        let committed = fs::read_to_string(root().join("docs/reference").join(name)).unwrap_or_default();
        assert!(committed == text, "docs/reference/{name} is not what the code says: run `make generate`");
    }
    let count = fs::read_dir(root().join("docs/reference")).unwrap().count();
    assert_eq!(count, reference::pages().len(), "a file too many in docs/reference");
}

#[test]
fn yaml_is_valid() {
    let mut count = 0;
    for page in pages() {
        for block in blocks::of(&page) {
            // In a shell's block YAML stands between <<'EOF' and EOF.
            let texts: Vec<&str> = match block.info.split(' ').next() {
                Some("yaml") => vec![&block.text],
                _ => block
                    .text
                    .split("<<'EOF'\n")
                    .skip(1)
                    .filter_map(|rest| rest.split("EOF\n").next())
                    .collect(),
            };
            for document in texts.iter().flat_map(|text| text.split("---\n")) {
                let place = format!("{page}:{}", block.line);
                let value: Value = serde_saphyr::from_str(document)
                    .unwrap_or_else(|error| panic!("{place}: {error}\n{document}"));
                if fairlead_crds::is_ours(&value) {
                    let violations = fairlead_crds::validate(&value);
                    assert!(violations.is_empty(), "{place}: {violations:?}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 5, "only {count} objects of ours in the documentation");
}

#[test]
fn commands_that_need_no_cluster_run() {
    for built in ["fairlead", "fairlead-operator", "fairlead-proxy"] {
        program::path(built);
    }
    // The ports of the README are those of every checkout on this machine.
    let ports = fs::File::create(std::env::temp_dir().join("fairlead-readme-ports")).unwrap();
    ports.lock().unwrap();
    for page in ["docs/injection.md", "README.md"] {
        blocks::run(page, &program::folder());
    }
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        // Code may look like a link.
        let text: String = text.replace("\\`", "").split('`').step_by(2).collect();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&page).parent().unwrap();
            let target = if file.is_empty() { Path::new(&page).to_owned() } else { folder.join(file) };
            let found = fs::read_to_string(root().join(&target));
            assert!(found.is_ok() || root().join(&target).is_dir(), "{page}: {link} is not there");
            let named = |line: &&str| line.starts_with('#') && anchor(line) == heading;
            assert!(
                heading.is_empty() || found.unwrap().lines().any(|line| named(&line)),
                "{page}: {link}: there is no such heading"
            );
        }
    }
}

/// The name by which a heading is linked to, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|one| one.is_alphanumeric() || " -_".contains(*one));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}

/// In docs/troubleshooting.md each line of a block marked `text said` is a message of Fairlead; `...` stands for what differs.
#[test]
fn quoted_messages_are_in_the_code() {
    let mut code = String::new();
    for folder in ["crds/src", "operator/src", "sidecar/src", "cli/src", "charts/fairlead/templates"] {
        collect(&root().join(folder), &mut code);
    }
    // A string of several lines is one message.
    let code = code.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut count = 0;
    for block in blocks::of("docs/troubleshooting.md").iter().filter(|block| block.info == "text said") {
        for part in block
            .text
            .lines()
            .flat_map(|line| line.split("..."))
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            assert!(code.contains(part), "docs/troubleshooting.md:{}: nothing says {part:?}", block.line);
            count += 1;
        }
    }
    assert!(count >= 10, "only {count}");
}

fn collect(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, code);
        } else {
            *code += &fs::read_to_string(path).unwrap();
        }
    }
}
