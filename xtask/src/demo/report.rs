//! What the demo measured, as tables for people or one JSON object for programs.

use crate::terminal::{Colours, Side, Table, Tone};
use serde::Serialize;

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The pod's namespaces.
    pub(super) namespaces: Vec<Namespace>,
    /// What else the pod's containers have in common, and what is theirs alone.
    pub(super) promises: Vec<Promise>,
    /// What the machine had before the demo, and has after it.
    pub(super) leftovers: Vec<Leftover>,
    /// How the daemon ended, and the demo.
    pub(super) endings: Vec<Promise>,
    /// What kept the demo from going on.
    pub(super) fault: Option<String>,
}

/// One kind of namespace: the inodes behind `/proc/PID/ns/KIND`, which tell two namespaces apart.
#[derive(Debug, Serialize)]
pub(super) struct Namespace {
    pub(super) kind: &'static str,
    /// Of the process that runs the demo.
    pub(super) host: u64,
    pub(super) pause: u64,
    /// Of each container, in the order of [`CONTAINERS`].
    pub(super) containers: [u64; 2],
    pub(super) promise: Sharing,
    pub(super) holds: bool,
}

/// The pod's two containers, by name.
pub(super) const CONTAINERS: [&str; 2] = ["server", "client"];

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sharing {
    /// The pod's: pause and all containers are in it, and the host is not.
    Shared,
    /// Each container's own.
    Own,
}

/// Something that must be so, what was measured, and whether it is so.
#[derive(Debug, Serialize)]
pub(super) struct Promise {
    pub(super) promise: String,
    pub(super) measured: String,
    pub(super) holds: bool,
}

/// One kind of thing of which nothing may be left.
#[derive(Debug, Serialize)]
pub(super) struct Leftover {
    pub(super) what: String,
    /// How many there were before the demo.
    pub(super) before: usize,
    /// How many of the demo's own there were while the pod ran.
    pub(super) during: usize,
    /// Those that are still there.
    pub(super) left: Vec<String>,
}

impl Namespace {
    /// Judges what was measured.
    pub(super) fn judge(kind: &'static str, promise: Sharing, host: u64, pause: u64, containers: [u64; 2]) -> Self {
        let [one, other] = containers;
        let holds = match promise {
            Sharing::Shared => pause != host && one == pause && other == pause,
            Sharing::Own => ![host, pause].contains(&one) && ![host, pause].contains(&other) && one != other,
        };
        Self { kind, host, pause, containers, promise, holds }
    }
}

impl Report {
    /// Everything was measured, and holds.
    pub(super) fn holds(&self) -> bool {
        let measured = ![self.namespaces.len(), self.promises.len(), self.leftovers.len(), self.endings.len()].contains(&0);
        measured && self.fault.is_none() && self.broken() == 0
    }

    fn broken(&self) -> usize {
        let namespaces = self.namespaces.iter().filter(|namespace| !namespace.holds).count();
        let promises = self.promises.iter().chain(&self.endings).filter(|promise| !promise.holds).count();
        namespaces + promises + self.leftovers.iter().filter(|leftover| !leftover.left.is_empty()).count()
    }

    /// For programs.
    pub(super) fn json(&self) -> serde_json::Value {
        let mut report = serde_json::json!(self);
        report["holds"] = self.holds().into();
        report
    }

    pub(super) fn namespaces_table(&self, colours: Colours) -> Table {
        let [server, client] = CONTAINERS;
        let columns = [
            ("NAMESPACE", Side::Left),
            ("HOST", Side::Right),
            ("PAUSE", Side::Right),
            (server, Side::Right),
            (client, Side::Right),
            ("PROMISED", Side::Left),
            ("HOLDS", Side::Left),
        ];
        let mut table = Table::new(colours, &columns);
        for namespace in &self.namespaces {
            let [one, other] = namespace.containers;
            let promise = match namespace.promise {
                Sharing::Shared => "the pod's",
                Sharing::Own => "each its own",
            };
            let [host, pause, one, other] = [namespace.host, namespace.pause, one, other].map(|inode| (inode.to_string(), Tone::Plain));
            let kind = (namespace.kind.to_owned(), Tone::Plain);
            table.row([kind, (host.0, Tone::Faint), pause, one, other, (promise.to_owned(), Tone::Plain), verdict(namespace.holds)]);
        }
        table
    }

    pub(super) fn leftovers_table(&self, colours: Colours) -> Table {
        let columns = [
            ("WHAT", Side::Left),
            ("BEFORE", Side::Right),
            ("POD ADDED", Side::Right),
            ("LEFT", Side::Right),
            ("HOLDS", Side::Left),
            ("", Side::Left),
        ];
        let mut table = Table::new(colours, &columns);
        for leftover in &self.leftovers {
            let count = |count: usize| (count.to_string(), Tone::Plain);
            let left = (leftover.left.len().to_string(), if leftover.left.is_empty() { Tone::Plain } else { Tone::Bad });
            let during = (format!("+{}", leftover.during), Tone::Plain);
            let what = (leftover.what.clone(), Tone::Plain);
            let names = (leftover.left.join(", "), Tone::Bad);
            table.row([what, count(leftover.before), during, left, verdict(leftover.left.is_empty()), names]);
        }
        table
    }

    /// The last line.
    pub(super) fn summary(&self, colours: Colours) -> String {
        let rows = self.namespaces.len() + self.promises.len() + self.leftovers.len() + self.endings.len();
        let text = match (&self.fault, self.broken()) {
            (None, 0) => format!("all {rows} rows hold; nothing is left"),
            (None, broken) => format!("{broken} of {rows} rows do not hold"),
            (Some(fault), 0) => format!("the demo did not come to its end: {fault}"),
            (Some(fault), broken) => format!("the demo did not come to its end: {fault}; {broken} of {rows} rows do not hold"),
        };
        colours.paint(Tone::of(self.holds()), &text)
    }
}

/// Of [`Report::promises`] or [`Report::endings`].
pub(super) fn promises_table(promises: &[Promise], colours: Colours) -> Table {
    let mut table = Table::new(colours, &[("PROMISED", Side::Left), ("HOLDS", Side::Left), ("MEASURED", Side::Left)]);
    for promise in promises {
        table.row([(promise.promise.clone(), Tone::Plain), verdict(promise.holds), (promise.measured.clone(), Tone::Plain)]);
    }
    table
}

fn verdict(holds: bool) -> (String, Tone) {
    ((if holds { "yes" } else { "NO" }).to_owned(), Tone::of(holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_namespace_is_one_for_all_and_not_the_hosts() {
        let holds = |promise, host, pause, containers| Namespace::judge("net", promise, host, pause, containers).holds;
        assert!(holds(Sharing::Shared, 1, 2, [2, 2]));
        assert!(!holds(Sharing::Shared, 1, 1, [1, 1]), "the host's");
        assert!(!holds(Sharing::Shared, 1, 2, [2, 3]), "one apart");
        assert!(holds(Sharing::Own, 1, 2, [3, 4]));
        assert!(!holds(Sharing::Own, 1, 2, [3, 3]), "the containers share it");
        assert!(!holds(Sharing::Own, 1, 2, [2, 4]), "pause's");
        assert!(!holds(Sharing::Own, 1, 2, [3, 1]), "the host's");
    }

    fn complete() -> Report {
        let promise = |promise: &str, measured: &str| vec![Promise { promise: promise.into(), measured: measured.into(), holds: true }];
        Report {
            namespaces: vec![Namespace::judge("net", Sharing::Shared, 1, 2, [2, 2])],
            promises: promise("hostname", "web"),
            endings: promise("the daemon ends", "exit status: 0"),
            leftovers: vec![Leftover { what: "links".into(), before: 2, during: 3, left: Vec::new() }],
            fault: None,
        }
    }

    #[test]
    fn a_report_holds_only_if_everything_was_measured_and_does() {
        assert!(complete().holds());
        assert!(!Report::default().holds(), "nothing was measured");
        assert!(!Report { leftovers: Vec::new(), ..complete() }.holds());
        assert!(!Report { fault: Some("interrupted".into()), ..complete() }.holds());
        let mut left = complete();
        left.leftovers[0].left.push("pb0".into());
        assert!(!left.holds());
        assert!(left.leftovers_table(Colours::Unused).to_string().contains("pb0"), "what is left is named");
        assert_eq!(left.json()["holds"], false);
    }
}
