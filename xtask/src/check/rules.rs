//! What is allowed: every table of the checks, in one place.

/// Which of podbox's crates a crate may depend on, for whatever purpose. A crate that is not in the list may not exist.
pub(super) const CRATE_EDGES: &[(&str, &[&str])] = &[
    ("podbox-sys", &[]),
    ("podbox-plan", &[]),
    ("podbox-proto", &[]),
    ("podbox-netns", &[]),
    ("podbox-pause", &[]),
    ("podbox-seccomp", &[]),
    ("podbox-stream", &[]),
    ("podbox-cgroup", &["podbox-sys"]),
    ("podbox-image", &["podbox-sys"]),
    ("podbox-monitor", &["podbox-plan", "podbox-sys", "podbox-cgroup"]),
    (
        "podbox",
        &["podbox-cgroup", "podbox-image", "podbox-netns", "podbox-plan", "podbox-proto", "podbox-seccomp", "podbox-stream", "podbox-sys"],
    ),
    ("podbox-tests", &["podbox-cgroup", "podbox-image", "podbox-netns", "podbox-plan", "podbox-proto", "podbox-stream", "podbox-sys"]),
    ("podbox-fuzz", &["podbox-cgroup", "podbox-image", "podbox-netns", "podbox-plan", "podbox-proto", "podbox-seccomp", "podbox-stream"]),
    (
        "xtask",
        &["podbox-cgroup", "podbox-image", "podbox-netns", "podbox-plan", "podbox-proto", "podbox-stream", "podbox-sys", "podbox-tests"],
    ),
];

/// One lives for every pod: a single thread without a runtime.
pub(super) const MONITOR: &str = "podbox-monitor";
/// What the monitor's dependencies, and theirs, may never include.
pub(super) const NEVER_IN_MONITOR: &[&str] = &["tokio", "mio", "futures-core", "tonic", "hyper", "clap", "tracing"];

/// Where the daemon's modules are.
pub(super) const DAEMON: &str = "shim/daemon/src/";

/// Which of the other layers a layer of the daemon may name. Data flows `cri → request → plan → pod → effects`; each stage
/// knows the types of the stages before it. `cri` names `effects` for the node's parts (images, network) and their errors; what
/// changes a pod goes through `pod`. `store` is written by `pod` and
/// read by `cri`.
pub(super) const LAYER_EDGES: &[(&str, &[&str])] = &[
    ("cri", &["request", "plan", "pod", "effects", "store"]),
    ("request", &[]),
    ("plan", &["request"]),
    ("pod", &["request", "plan", "effects", "store"]),
    ("effects", &["request", "plan"]),
    ("store", &["request", "plan"]),
];

/// Modules of the daemon that put the layers together: they may name every layer, and no layer names them. All other modules
/// beside the layers (`config`, `metrics`) may be named by every layer and name none.
pub(super) const WIRING: &[&str] = &["main", "serve"];

/// Crates that only some modules of the daemon may name; wiring always may.
pub(super) const CRATES_OF_LAYERS: &[(&str, &[&str])] = &[
    ("podbox_proto", &["cri", "request", "stream_command"]),
    ("tonic", &["cri", "stream_command"]),
    ("tonic_health", &["cri"]),
    ("tonic_reflection", &["cri"]),
    ("podbox_stream", &["cri", "pod", "effects", "stream_command"]),
    ("hyper", &["metrics"]),
    ("hyper_util", &["metrics", "stream_command"]),
    ("http_body_util", &["metrics"]),
];

/// Words that only code below these folders may use. A descriptor's number may be read elsewhere, for a path in `/proc/self/fd`
/// or a netlink attribute; but nobody else holds one as a number or makes one of a number.
pub(super) const WORDS_OF_FOLDERS: &[(&str, &[&str])] = &[
    ("unsafe", &["shim/sys/", "pause/"]),
    ("RawFd", &["shim/sys/", "pause/"]),
    ("FromRawFd", &["shim/sys/", "pause/"]),
    ("IntoRawFd", &["shim/sys/", "pause/"]),
    ("borrow_raw", &["shim/sys/", "pause/"]),
];

/// Each crate's licence expression must be satisfied by these alone.
pub(super) const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Of lists of certificate authorities.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// The one registry, by the end of its name in the lock file.
pub(super) const REGISTRY: &str = "/rust-lang/crates.io-index";

/// Crates that may be there in one version only: two would be two sets of types that do not fit each other.
pub(super) const SINGLE_VERSION: &[&str] = &["hyper", "libc", "nix", "prost", "rustix", "serde", "tokio", "tonic"];

/// Crates that are not used, the crates that may bring them along all the same, and why.
pub(super) const BANNED: &[(&str, &[&str], &str)] = &[
    ("async-tar", &[], "tar is read on a blocking thread; its asynchronous forks had vulnerabilities that it had not"),
    ("axum", &["tonic"], "the stream server is hyper's; tonic has it for its router"),
    ("cgroups-rs", &[], "podbox-cgroup does it"),
    ("k8s-cri", &[], "it lacks calls of the CRI; podbox-proto has them all"),
    ("libcgroups", &[], "podbox-cgroup does it"),
    ("nftables", &[], "it executes nft; the network is set up by netlink alone"),
    ("openssl-sys", &[], "the binary depends on no library of the host"),
    ("rustables", &[], "GPL"),
    ("spdy-mux", &[], "GPL"),
    ("tokio-tar", &[], "tar is read on a blocking thread; its asynchronous forks had vulnerabilities that it had not"),
];

/// Dependencies, by member and crate, that are used though no source names them, and how.
pub(super) const USED_UNNAMED: &[(&str, &str, &str)] = &[
    ("podbox-fuzz", "podbox-cgroup", "the daemon's requests, which are links there"),
    ("podbox-fuzz", "podbox-netns", "the daemon's requests, which are links there"),
    ("podbox-fuzz", "serde", "the daemon's requests, which are links there"),
];

/// Members that are tests and nothing else: what their tests use is what their code uses.
pub(super) const TEST_CRATES: &[&str] = &["podbox-tests", "podbox-fuzz"];

/// Every entry of the top folder. Names that begin with a dot are not looked at.
pub(super) const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "docs",
    "netns",
    "pause",
    "proto",
    "shim",
    "tests",
    "xtask",
];
/// May be there and is not looked at.
pub(super) const BUILD_OUTPUT: &str = "target";

/// A longer README is not read.
pub(super) const README_LINES_MAX: usize = 120;
/// A longer source file is two.
pub(super) const SOURCE_LINES_MAX: usize = 600;
/// Nobody reads these as code.
pub(super) const GENERATED: &[&str] = &["proto/src/runtime.v1.rs"];
