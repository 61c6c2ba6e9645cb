//! The rules of CONTRIBUTING.md that a program can check.
//!
//! Reading order: `lib.rs` lists its modules in the order in which one reads them, and a module imports only
//! modules that stand after it. Inside a folder the order is free, but the modules of one folder must not
//! import each other in a circle. A module and its own children are one thing told in several files: those may
//! name each other. Tests and comments are free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of code in one file, without blank lines, comments and tests.
const LONGEST: usize = 500;

#[test]
fn modules_import_only_what_stands_after_them() {
    let mut wrong = Vec::new();
    for package in ["crds", "operator", "sidecar", "cli", "tests"] {
        let tree = Tree::read(&root().join(package).join("src"));
        wrong.extend(tree.uphill().into_iter().map(|line| format!("{package}: {line}")));
        wrong.extend(tree.circles().into_iter().map(|line| format!("{package}: {line}")));
    }
    assert!(wrong.is_empty(), "imports against the reading order:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        if !is_test(&file) && !text.starts_with("//!") && !text.starts_with("#!") {
            wrong.push(format!("{shown}: begins without a //! paragraph"));
        }
        if is_test(&file) {
            continue;
        }
        let count = code(&text).lines().filter(|line| !line.trim().is_empty()).count();
        if count > LONGEST {
            wrong.push(format!("{shown}: {count} lines of code, {LONGEST} at most"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_open() {
    let open = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    let mut wrong = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            if open.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
        wrong.extend(allowed_dead(&text).map(|lints| format!("{}: {lints}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(allowed_dead("#![allow(\n  unused,\n  dead_code\n)]").count(), 1);
}

/// What a crate is for stays at its place: xDS types in `xds`, and a model that can be read without a runtime.
#[test]
fn what_a_module_may_name() {
    let mut wrong = Vec::new();
    for file in ["operator", "sidecar"].iter().flat_map(|package| files(&root().join(package).join("src"))) {
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        let text = code(&fs::read_to_string(&file).unwrap());
        let banned: &[&str] = match () {
            () if is_test(&file) => &[],
            () if shown.starts_with("operator/src/model") => {
                &["envoy_types", "tokio", "tonic", "kube::Client", "kube::client", "kube::runtime"]
            }
            () if shown.contains("/src/xds") => &[],
            () => &["envoy_types"],
        };
        wrong.extend(
            banned.iter().filter(|name| text.contains(*name)).map(|name| format!("{shown} names {name}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dependencies_keep_the_bans_of_deny_toml() {
    let (lock, bans) = (lock(), bans());
    assert!(bans.len() > 5, "deny.toml was not understood: {bans:?}");
    let mut wrong = Vec::new();
    for (banned, wrappers) in &bans {
        for (package, dependencies) in &lock {
            if dependencies.contains(banned) && !wrappers.contains(package) {
                wrong.push(format!("{package} depends on {banned}"));
            }
        }
        if wrappers.is_empty() && lock.contains_key(banned) {
            wrong.push(format!("{banned} is used"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sidecar_knows_nothing_of_kubernetes() {
    let lock = lock();
    let (mut all, mut open) = (BTreeSet::new(), vec!["fairlead-proxy".to_owned()]);
    while let Some(next) = open.pop() {
        if all.insert(next.clone()) {
            open.extend(lock[&next].iter().cloned());
        }
    }
    for banned in ["kube", "kube-client", "kube-core", "k8s-openapi", "fairlead-crds", "fairlead-operator"] {
        assert!(!all.contains(banned), "fairlead-proxy depends on {banned}");
    }
}

#[test]
fn the_order_is_checked_at_all() {
    let files = [
        ("lib", "pub mod a;\npub mod b;"),
        ("a", "mod x;\nmod y;\nmod z;\nuse crate::b;"),
        ("a::x", "use super::y::Thing;"),
        ("a::y", "use crate::{b::C, a::{z, z::D}};"),
        ("a::z", "fn f() { super::super::a::x::g() }"),
        ("b", "// use crate::a;\nfn f() { crate::a::g(); }\n#[cfg(test)]\nmod tests { use crate::a; }"),
    ];
    let modules = files.map(|(path, text)| (path.trim_start_matches("lib").to_owned(), code(text)));
    let tree = Tree { modules: modules.into() };
    assert_eq!(tree.uphill(), ["b imports a::g"]);
    assert_eq!(tree.circles(), ["a::x -> a::y -> a::z -> a::x"]);
}

/// The lists of allowed lints that have `dead_code`.
fn allowed_dead(text: &str) -> impl Iterator<Item = &str> {
    let starts =
        ["allow", "expect"].into_iter().flat_map(|word| text.match_indices(word)).collect::<Vec<_>>();
    starts.into_iter().filter_map(|(start, word)| {
        let list = text[start + word.len()..].strip_prefix('(')?.split(')').next()?;
        list.split(',').any(|lint| lint.trim() == "dead_code").then_some(list)
    })
}

/// The code of a package by module path (`xds::session`, the root is empty), without comments and tests.
struct Tree {
    modules: BTreeMap<String, String>,
}

impl Tree {
    fn read(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for file in files(source) {
            let path = file.strip_prefix(source).unwrap().with_extension("");
            let path = path.display().to_string().replace('/', "::");
            if is_test(&file) || path == "main" || path.starts_with("bin::") {
                continue;
            }
            let path = if path == "lib" { String::new() } else { path };
            modules.insert(path, code(&fs::read_to_string(&file).unwrap()));
        }
        Self { modules }
    }

    /// The modules that a module declares, in order.
    fn order(&self, module: &str) -> Vec<&str> {
        let text = self.modules.get(module).map_or("", String::as_str);
        let declared = text.lines().filter_map(|line| {
            let line = line.trim().strip_suffix(';')?;
            let (visibility, name) = line.rsplit_once("mod ")?;
            (visibility.is_empty() || visibility.starts_with("pub")).then_some(name)
        });
        declared.collect()
    }

    /// What modules of `lib.rs` import although it stands before them.
    fn uphill(&self) -> Vec<String> {
        let order = self.order("");
        let place = |path: &str| order.iter().position(|one| path.split("::").next() == Some(one));
        let mut wrong = Vec::new();
        for (module, text) in &self.modules {
            let uphill = |target: &String| matches!((place(module), place(target)), (Some(mine), Some(theirs)) if theirs < mine);
            let targets = imports(module, text).into_iter().filter(uphill);
            wrong.extend(targets.map(|target| format!("{module} imports {target}")));
        }
        wrong
    }

    /// Circles of modules of one folder, each as the way round.
    fn circles(&self) -> Vec<String> {
        let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
        for (module, text) in &self.modules {
            for target in imports(module, text) {
                let (from, to): (Vec<_>, Vec<_>) =
                    (module.split("::").collect(), target.split("::").collect());
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let sibling = |path: &[&str]| path.get(..=common).map(|path| path.join("::"));
                let (Some(mine), Some(theirs)) = (sibling(&from), sibling(&to)) else { continue };
                if common > 0 && self.modules.contains_key(&mine) && self.modules.contains_key(&theirs) {
                    edges.entry(mine).or_default().insert(theirs);
                }
            }
        }
        let mut circles = Vec::new();
        for start in edges.keys() {
            let mut ways = vec![vec![start.clone()]];
            let mut reached = BTreeSet::new();
            while let Some(way) = ways.pop() {
                for next in edges.get(&way[way.len() - 1]).into_iter().flatten() {
                    let longer = [&way[..], std::slice::from_ref(next)].concat();
                    // Each circle once, from its first module.
                    if next == start && way.iter().min() == Some(start) {
                        circles.push(longer.join(" -> "));
                    } else if reached.insert(next.clone()) {
                        ways.push(longer);
                    }
                }
            }
        }
        circles
    }
}

/// Every path of this package that the text names, from the root of the package.
fn imports(module: &str, text: &str) -> Vec<String> {
    let module: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut found = Vec::new();
    for (start, word) in ["crate::", "super::"].iter().flat_map(|word| text.match_indices(word)) {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
            continue;
        }
        let (mut base, mut rest) = (module.clone(), &text[start..]);
        if word == "crate::" {
            base.clear();
            rest = &rest[word.len()..];
        }
        while let Some(up) = rest.strip_prefix("super::") {
            base.pop();
            rest = up;
        }
        leaves(&base.join("::"), rest, &mut found);
    }
    found
}

/// The leaves of `a::{b, c::{d, e}}`; returns what follows.
fn leaves<'text>(base: &str, text: &'text str, found: &mut Vec<String>) -> &'text str {
    let joined = |name: &str| if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = leaves(base, rest.trim_start(), found).trim_start();
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if let Some(below) = rest.strip_prefix("::").filter(|_| !name.is_empty()) {
        return leaves(&joined(name), below, found);
    }
    if !name.is_empty() {
        found.push(joined(name));
    }
    rest.strip_prefix('*').unwrap_or(rest)
}

/// The text without comments and without what follows the first `#[cfg(test)]` that opens a module.
fn code(text: &str) -> String {
    let mut lines = text.lines().peekable();
    let mut kept = String::new();
    while let Some(line) = lines.next() {
        let opens =
            |next: &&str| next.starts_with("mod ") && next.ends_with('{') || next.starts_with("mod tests {");
        if line == "#[cfg(test)]" {
            if lines.peek().is_some_and(opens) {
                break; // By custom the last thing in a file.
            }
            lines.next(); // `mod tests;`
            continue;
        }
        if !line.trim_start().starts_with("//") {
            kept += line.split(" // ").next().unwrap_or(line);
            kept.push('\n');
        }
    }
    kept
}

fn is_test(file: &Path) -> bool {
    let shown = file.strip_prefix(root()).unwrap_or(file);
    shown.components().any(|part| part.as_os_str() == "tests.rs")
        || shown.starts_with("tests/mesh")
        || shown.starts_with("tests/e2e")
        || shown.components().skip(1).any(|part| part.as_os_str() == "tests")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn sources() -> Vec<PathBuf> {
    ["crds", "operator", "sidecar", "cli", "tests", "fuzz", "bench/cost"]
        .iter()
        .flat_map(|name| files(&root().join(name)))
        .collect()
}

/// All Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The packages that are built of those in Cargo.lock, with the names of what they depend on. (Cargo.lock
/// alone also lists what no feature asks for.)
fn lock() -> BTreeMap<String, BTreeSet<String>> {
    let tree = [
        "tree",
        "--workspace",
        "--locked",
        "--offline",
        "--edges=normal,build,dev",
        "--prefix=depth",
        "--format={p}",
    ];
    let output = Command::new(env!("CARGO")).args(tree).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut packages = BTreeMap::<String, BTreeSet<String>>::new();
    let mut path: Vec<String> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()) {
        let name = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let depth: usize = line[..line.len() - name.len()].parse().unwrap();
        let name = name.split(' ').next().expect("a package has a name").to_owned();
        path.truncate(depth);
        if let Some(parent) = path.last() {
            packages.entry(parent.clone()).or_default().insert(name.clone());
        }
        packages.entry(name.clone()).or_default();
        path.push(name);
    }
    packages
}

/// The crates that deny.toml bans, each with the packages that may use it all the same.
fn bans() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let entries = text.lines().filter_map(|line| line.trim().strip_prefix("{ crate = \""));
    let ban = |entry: &str| {
        let (name, rest) = entry.split_once('"')?;
        let wrappers = rest.split_once("wrappers = [").map_or("", |(_, list)| list);
        Some((name.to_owned(), wrappers.split('"').skip(1).step_by(2).map(str::to_owned).collect()))
    };
    entries.filter_map(ban).collect()
}
