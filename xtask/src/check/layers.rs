//! Inside the daemon: which layer names which, and which crates.
//!
//! A file belongs to the module of the crate's root that it is in: `shim/daemon/src/pod/driver.rs` to `pod`. What is compiled
//! for tests only may name everything.

use super::rules::{CRATES_OF_LAYERS, DAEMON, LAYER_EDGES, WIRING};
use super::rust_tokens::{Token, tokens_without_tests};
use super::sources::SourceFile;

pub(super) fn check(sources: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in sources.iter().filter(|file| file.is_rust()) {
        let Some(path) = file.path.strip_prefix(DAEMON).and_then(|path| path.strip_suffix(".rs")) else { continue };
        let modules: Vec<&str> = path.split('/').filter(|module| *module != "mod").collect();
        let (Some(own), false) = (modules.first().copied(), modules.contains(&"tests")) else { continue };
        if WIRING.contains(&own) {
            continue;
        }
        let tokens = tokens_without_tests(&file.text);
        for named in modules_named(&tokens, modules.len()).into_iter().filter(|named| named.text != own) {
            if !may_name(own, named.text) {
                violations.push(format!("{}:{}: `{own}` may not name `{}`", file.path, named.line, named.text));
            }
        }
        for token in &tokens {
            let only_for = CRATES_OF_LAYERS.iter().find(|(name, _)| *name == token.text);
            if let Some((name, layers)) = only_for
                && !layers.contains(&own)
            {
                violations.push(format!("{}:{}: `{name}` is for {} alone", file.path, token.line, layers.join(" and ")));
            }
        }
    }
    violations
}

fn may_name(own: &str, named: &str) -> bool {
    let edges = |layer| LAYER_EDGES.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed);
    if WIRING.contains(&named) {
        return false;
    }
    match (edges(own), edges(named)) {
        (_, None) => true,
        (Some(allowed), Some(_)) => allowed.contains(&named),
        (None, Some(_)) => false,
    }
}

/// The modules of the crate's root that are named in `crate::…`, `crate::{…}` or enough `super::` from `depth` modules down.
/// Names of the root's items other than modules are among them and match no rule.
fn modules_named<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let mut named = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let supers = tokens[at..].chunks(2).take_while(|pair| is_path_part(pair, "super")).count();
        let behind_root = if is_path_part(&tokens[at..], "crate") {
            at + 2
        } else if supers == depth {
            at + 2 * supers
        } else {
            at += (2 * supers).max(1);
            continue;
        };
        match tokens.get(behind_root) {
            Some(brace) if brace.text == "{" => named.extend(heads_of_group(&tokens[behind_root..])),
            Some(name) => named.push(*name),
            None => {}
        }
        at = behind_root;
    }
    named
}

fn is_path_part(tokens: &[Token<'_>], name: &str) -> bool {
    matches!(tokens, [first, second, ..] if first.text == name && second.text == "::")
}

/// `a` and `d` of `{a::{b, c}, d}`.
fn heads_of_group<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut heads = Vec::new();
    let mut depth = 0;
    for pair in tokens.windows(2) {
        match pair[0].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0].text, "{" | ",") && pair[1].text != "}" {
            heads.push(pair[1]);
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, text: &str) -> Vec<String> {
        check(&[SourceFile::fixture(&format!("{DAEMON}{path}"), text)])
    }

    #[test]
    fn what_flows_on_does_not_flow_back() {
        for (path, text) in [
            ("effects/network.rs", "use crate::pod::Driver;"),
            ("effects.rs", "fn f() { crate::store::begin() }"),
            ("plan/sandbox.rs", "use crate::{config::Config, effects::{self, run}};"),
            ("request.rs", "use crate::plan::lower;"),
            ("store/record.rs", "use super::super::cri::service;"),
            ("store.rs", "use super::pod::Driver;"),
            ("pod/mod.rs", "use crate::cri;"),
            ("config.rs", "use crate::pod::Driver;"),
            ("cri.rs", "use crate::serve::serve;"),
        ] {
            assert_eq!(violations(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_reported() {
        for (path, text) in [
            ("cri.rs", "use crate::{request::SandboxConfig, pod, store::Reader, config::Config}; use tonic::Status;"),
            ("plan/sandbox.rs", "use crate::request::SandboxConfig; use super::pod_cgroup; use super::lower::pod::x;"),
            ("pod/driver.rs", "use crate::effects; use super::super::store; pub(crate) fn f() {}"),
            ("main.rs", "use crate::{cri, pod}; use tonic::transport::Server;"),
            ("plan.rs", "// use crate::pod;\n#[cfg(test)] mod tests { use podbox_proto::v1; use crate::pod; }"),
            ("plan/tests.rs", "use crate::pod::Driver;"),
        ] {
            assert_eq!(violations(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn wire_types_and_the_server_stay_at_the_edge() {
        assert_eq!(violations("plan.rs", "fn f(x: podbox_proto::v1::Mount) {}").len(), 1);
        assert_eq!(violations("pod/driver.rs", "fn f() -> Result<(), tonic::Status> {}").len(), 1);
        assert_eq!(violations("request.rs", "use podbox_proto::v1;"), Vec::<String>::new());
    }
}
