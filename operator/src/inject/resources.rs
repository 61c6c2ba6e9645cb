//! What the two containers may use. Both always say, for namespaces with a quota take nobody who does not.
//!
//! The pod's quality of service stays what it was: in a Guaranteed pod requests and limits are equal. A pod whose
//! budget stands at the pod itself (`spec.resources`) keeps it: ours say nothing there and share it.

use serde_json::{Map, Value, json};

use super::annotation::{self, Wishes};
use super::quantity::Quantity;
use super::{applications, items};

/// Of the sidecar.
const CPU: Amounts =
    Amounts { request: annotation::CPU_REQUEST, limit: annotation::CPU_LIMIT, guaranteed: "250m" };
/// Of the sidecar.
const MEMORY: Amounts =
    Amounts { request: annotation::MEMORY_REQUEST, limit: annotation::MEMORY_LIMIT, guaranteed: "128Mi" };
/// Redirection is one run of nft. Less than the sidecar's in all, so that it adds nothing to what the pod needs.
const REDIRECT_CPU: Amounts = Amounts { request: "10m", limit: "100m", guaranteed: "100m" };
const REDIRECT_MEMORY: Amounts = Amounts { request: "16Mi", limit: "64Mi", guaranteed: "64Mi" };

/// What a container gets when nobody says.
struct Amounts {
    request: &'static str,
    limit: &'static str,
    /// Both, in a Guaranteed pod: it is reserved, so it is less than the limit elsewhere.
    guaranteed: &'static str,
}

/// The `resources` of both containers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) proxy: Resources,
    pub(super) redirect: Resources,
}

/// The `resources` of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Resources {
    /// As the manifest has it.
    pub(super) value: Value,
    /// The CPU limit in whole CPUs, rounded up; none: no limit of its own.
    pub(super) cpus: Option<u64>,
}

/// What the containers get; and a warning, or why that cannot be.
pub(super) fn plan(pod: &Value, wishes: &Wishes) -> (Plan, Result<Option<String>, String>) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let guaranteed = is_guaranteed(spec);
    let of = |cpu: &Amounts, memory: &Amounts, wishes: &Wishes| {
        let cpu = Pair::choose("cpu", cpu, &wishes.cpu_request, &wishes.cpu_limit, spec, guaranteed);
        let memory =
            Pair::choose("memory", memory, &wishes.memory_request, &wishes.memory_limit, spec, guaranteed);
        (resources(&cpu, &memory), [cpu, memory])
    };
    let (proxy, pairs) = of(&CPU, &MEMORY, wishes);
    // What a namespace demands of each container it demands of this one too; it runs before the sidecar, so that
    // the same amounts add nothing to what the pod needs.
    let (redirect, _) = of(&REDIRECT_CPU, &REDIRECT_MEMORY, wishes);
    let found = pairs.iter().try_fold(None, |found: Option<String>, pair| {
        let (Some(request), Some(limit)) = (&pair.request, &pair.limit) else { return Ok(found) };
        let name = pair.name;
        if request > limit {
            let (request, limit) = (&request.text, &limit.text);
            return Err(format!(
                "annotation fairlead.dev/proxy-{name}-request: \"{request}\" is more than fairlead.dev/proxy-{name}-limit: \"{limit}\"; write a higher limit"
            ));
        }
        let lowers = guaranteed && request != limit;
        Ok(found.or_else(|| lowers.then(|| format!(
            "the pod would be Guaranteed, and is Burstable by fairlead.dev/proxy-{name}-request and -limit; write the same value in both"
        ))))
    });
    (Plan { proxy, redirect }, found)
}

/// Request and limit of one resource.
struct Pair {
    name: &'static str,
    request: Option<Quantity>,
    limit: Option<Quantity>,
}

impl Pair {
    fn choose(
        name: &'static str,
        usual: &Amounts,
        request: &Option<Quantity>,
        limit: &Option<Quantity>,
        spec: &Value,
        guaranteed: bool,
    ) -> Self {
        let usually = |text| Quantity::parse(text);
        let (request, limit) = match (request.clone(), limit.clone()) {
            (None, None) if has_budget(spec, name) => (None, None),
            (None, None) if guaranteed => (usually(usual.guaranteed), usually(usual.guaranteed)),
            (Some(one), None) | (None, Some(one)) if guaranteed => (Some(one.clone()), Some(one)),
            // Who says one of the two does not want to look up the other.
            (request, None) => {
                let limit = usually(usual.limit).filter(|limit| request.as_ref() <= Some(limit));
                (request.clone().or_else(|| usually(usual.request)), limit.or(request))
            }
            (None, limit) => {
                let request = usually(usual.request).filter(|request| limit.as_ref() >= Some(request));
                (request.or_else(|| limit.clone()), limit)
            }
            both => both,
        };
        Self { name, request, limit }
    }
}

fn resources(cpu: &Pair, memory: &Pair) -> Resources {
    let map = |of: fn(&Pair) -> &Option<Quantity>| -> Map<String, Value> {
        let pairs = [cpu, memory].into_iter();
        pairs.filter_map(|pair| Some((pair.name.to_owned(), json!(of(pair).as_ref()?.text)))).collect()
    };
    let (requests, limits) = (map(|pair| &pair.request), map(|pair| &pair.limit));
    let value = match requests.is_empty() && limits.is_empty() {
        true => json!({}),
        false => json!({ "requests": requests, "limits": limits }),
    };
    Resources { value, cpus: cpu.limit.as_ref().map(Quantity::units) }
}

/// Whether the pod as a whole has a budget for this resource.
fn has_budget(spec: &Value, resource: &str) -> bool {
    ["requests", "limits"].iter().any(|list| spec.pointer(&format!("/resources/{list}/{resource}")).is_some())
}

/// Whether Kubernetes calls the pod Guaranteed: every container has limits, and no lower requests.
fn is_guaranteed(spec: &Value) -> bool {
    let guaranteed = |container: &Value| {
        ["cpu", "memory"].iter().all(|resource| {
            let amount = |list| {
                let value = container.pointer(&format!("/resources/{list}/{resource}"));
                value.map(|value| Quantity::read(value).filter(|amount| amount.at_least_milli(1)))
            };
            // Without a request the limit counts as one; what cannot be read is no promise.
            match (amount("requests"), amount("limits")) {
                (None, Some(Some(_))) => true,
                (Some(Some(request)), Some(Some(limit))) => request == limit,
                _ => false,
            }
        })
    };
    spec.get("resources").is_none()
        && !items(spec, "containers").is_empty()
        && applications(spec).all(|(_, container)| guaranteed(container))
}
