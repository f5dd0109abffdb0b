//! Which of podbox's crates depend on which, and what the monitor is linked with.

use super::rules::{CRATE_EDGES, MONITOR, NEVER_IN_MONITOR};
use super::workspace::{Package, Workspace};

pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let edges = workspace.members().flat_map(|member| forbidden_edges(workspace, member));
    edges
        .chain(workspace.members().filter(|member| member.name == MONITOR).flat_map(|monitor| monitor_burdens(workspace, monitor)))
        .collect()
}

fn forbidden_edges(workspace: &Workspace, member: &Package) -> Vec<String> {
    let Some((_, allowed)) = CRATE_EDGES.iter().find(|(name, _)| *name == member.name) else {
        return vec![format!("{} has no entry in the table of crate edges", member.name)];
    };
    let ours = workspace.dependencies(member).map(|(_, dependency)| dependency).filter(|dependency| workspace.is_member(dependency));
    let forbidden = ours.filter(|dependency| !allowed.contains(&dependency.name.as_str()));
    forbidden.map(|dependency| format!("{} may not depend on {}", member.name, dependency.name)).collect()
}

fn monitor_burdens(workspace: &Workspace, monitor: &Package) -> Vec<String> {
    let linked_with = workspace.linked_with(monitor);
    let burdens = NEVER_IN_MONITOR.iter().filter_map(|name| linked_with.get(name).map(|brought_by| (name, brought_by)));
    burdens.map(|(name, brought_by)| format!("{} is linked with {name}, which {brought_by} brings", monitor.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::workspace::fixture::{package, workspace};
    use super::*;

    #[test]
    fn an_edge_that_is_not_in_the_table_is_reported_whatever_it_is_for() {
        let packages = [package("podbox-netns", true), package("podbox-sys", true), package("podbox-monitor", true)];
        let edges =
            [("podbox-netns", "podbox-sys", None), ("podbox-sys", "podbox-netns", Some("dev")), ("podbox-monitor", "podbox-sys", None)];
        let found = check(&workspace(&packages, &edges));
        assert_eq!(found, ["podbox-netns may not depend on podbox-sys", "podbox-sys may not depend on podbox-netns"]);
    }

    #[test]
    fn nobody_depends_on_the_monitor_and_no_crate_is_unknown() {
        let packages = [package("podbox", true), package("podbox-monitor", true), package("podbox-extra", true)];
        let found = check(&workspace(&packages, &[("podbox", "podbox-monitor", None)]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_runtime_deep_in_the_monitors_tree_is_found_and_one_for_its_tests_is_not() {
        let packages = [package("podbox-monitor", true), package("lib", false), package("tokio", false), package("mio", false)];
        let found = check(&workspace(&packages, &[("podbox-monitor", "lib", None), ("lib", "tokio", None)]));
        assert_eq!(found, ["podbox-monitor is linked with tokio, which lib brings"]);
        let for_tests = [("podbox-monitor", "lib", None), ("podbox-monitor", "tokio", Some("dev")), ("lib", "mio", Some("build"))];
        assert_eq!(check(&workspace(&packages, &for_tests)), Vec::<String>::new());
    }
}
