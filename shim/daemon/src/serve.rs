//! `podbox serve`: the daemon from its start to its end.
//!
//! It dies at any moment without harm: pods live on under their monitors, and the next one takes them over. SIGTERM and
//! SIGINT end it the same way, only politely: calls under way are answered, pods stay.

mod socket;

use crate::chain::Chain;
use crate::config::Config;
use crate::cri::{Cri, LogCalls, PodStreams};
use crate::effects::{
    CaptureRoom, Confining, Layers, Meters, Network, Node, Programs, choose_driver, discover_facts, raise_open_files,
    why_no_user_namespaces,
};
use crate::metrics::{Metrics, MetricsServer, Population};
use crate::plan::{Layout, PodParent};
use crate::pod::Pods;
use crate::store::{ContainerPhase, SandboxPhase, Store, read_record};
use anyhow::Context;
use futures_util::{Stream, StreamExt};
use ipnetwork::IpNetwork;
use podbox_cgroup::Hierarchies;
use podbox_image::{ImageStore, Puller, Reference, StoreOptions};
use podbox_netns::BridgeClaim;
use podbox_proto::FILE_DESCRIPTOR_SET;
use podbox_proto::v1::image_service_server::ImageServiceServer;
use podbox_proto::v1::runtime_service_server::RuntimeServiceServer;
use rustix::process::Rlimit;
use std::fs::{DirBuilder, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// The kubelet's own bound on a message.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Clients may take more than the kubelet does: a list that is longer than its bound is theirs.
const ANSWER_BYTES_MAX: usize = 33 * 1024 * 1024;
/// How often, and how far apart, a lock is tried: two seconds in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Where claims on bridges are: the same for all daemons of the machine, and closed to all but root.
const CLAIMS_DIR: &str = "/run/podbox-bridges";
/// Calls given up on by one client at once, before its connection is closed.
const RESETS_MAX: usize = 4096;
/// After a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls that are under way when the daemon is told to go: the rest is cut off, and their callers try again.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves until it is told to stop.
pub fn serve(config: Config) -> anyhow::Result<()> {
    log_to_stderr(&config);
    let open_files = raise_open_files().context("raise the limit of open files")?;
    let _locks = take_directories(&config)?;
    let _claim = claim_bridge(&config)?;
    // Before there are threads.
    let no_user_namespaces = why_no_user_namespaces(config.root_dir.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(run(config, open_files, no_user_namespaces));
    // Threads that wait for the kernel are not waited for.
    runtime.shutdown_background();
    outcome
}

fn log_to_stderr(config: &Config) {
    // What libraries say of each frame drowns what podbox says.
    let filter = tracing_subscriber::EnvFilter::new(format!("{},h2=warn,hyper=warn,tonic=warn,tower=warn", config.log_level.as_str()));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}

/// Makes the directories, for root alone, and locks both: of two daemons on one of them, each would undo what the other's pods need.
fn take_directories(config: &Config) -> anyhow::Result<[File; 2]> {
    let layout = Layout::new(config.state_dir.as_ref().to_owned());
    for directory in [config.state_dir.as_ref(), config.root_dir.as_ref(), &layout.pods()] {
        make_private(directory).with_context(|| format!("make the directory {}", directory.display()))?;
    }
    Ok([lock(&layout.lock())?, lock(&config.root_dir.as_ref().join("daemon.lock"))?])
}

/// Holds a file locked; nothing of it is left when the daemon dies, however that comes.
fn lock(path: &Path) -> anyhow::Result<File> {
    let lock = File::create(path).with_context(|| format!("open {}", path.display()))?;
    lock.set_permissions(Permissions::from_mode(0o600)).with_context(|| format!("protect {}", path.display()))?;
    patiently(|| lock.try_lock()).with_context(|| format!("{} is locked: another daemon serves this directory", path.display()))?;
    Ok(lock)
}

/// Of two daemons on one bridge, each would take the other's links for leftovers, whatever their directories are.
fn claim_bridge(config: &Config) -> anyhow::Result<BridgeClaim> {
    let directory = Path::new(CLAIMS_DIR);
    make_private(directory).with_context(|| format!("make the directory {CLAIMS_DIR}"))?;
    patiently(|| BridgeClaim::take(directory, config.network.bridge.as_str())).context("network.bridge")
}

/// Tries for what another process may hold a moment longer: a child that a killed daemon was just starting has the daemon's
/// descriptors until it executes.
fn patiently<T, E>(mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..LOCK_TRIES {
        let outcome = attempt();
        if outcome.is_ok() {
            return outcome;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    attempt()
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))
}

async fn run(config: Config, open_files: Rlimit, no_user_namespaces: Option<String>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let socket = config.socket.clone();
    let node = Arc::new(discover(config, open_files, no_user_namespaces).await?);
    let confining = node.confining.clone();
    // The first container waits for it, not the daemon.
    tokio::task::spawn_blocking(move || confining.prepare());
    let store = Arc::new(Store::new(node.layout.clone()));
    refuse_to_leave_pods(&node).await?;
    let pods = Pods::recover(node.clone(), store.clone()).await.context("take over the pods on record")?;
    if let Err(error) = node.network.open().await {
        tracing::error!(error = %Chain(&error), "the pod network is not ready");
    }
    let metrics = listen_for_scrapes(&node).await?;
    let streams = listen_for_streams(&node).await?;
    let listener = socket::listen(socket.as_ref()).with_context(|| format!("listen on {}", socket.as_ref().display()))?;
    tracing::info!(socket = %socket.as_ref().display(), version = env!("CARGO_PKG_VERSION"), "serving");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Some(server) = metrics {
        let store = store.clone();
        tokio::spawn(server.run(node.metrics.clone(), move || population(&store)));
    }
    let log = LogCalls::new(node.metrics.clone());
    let (end_sessions, ended) = tokio::sync::oneshot::channel::<()>();
    let idle = node.config.stream.idle_timeout_seconds.duration();
    let cri = Cri::new(node, store.clone(), pods.clone(), streams.tickets());
    let endpoint = Arc::new(PodStreams::new(store.clone(), pods));
    let sessions = tokio::spawn(streams.run(endpoint, idle, async { drop(ended.await) }));
    let stop = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        tracing::info!("stopping: pods run on");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // They would last as long as the daemon does.
        store.end_subscriptions();
        drop(end_sessions);
    };
    let answered = answer(cri, log, listener, stop).await;
    // They have a bound of their own.
    let _ = sessions.await;
    answered
}

/// A pod that hangs on another bridge than the one that is configured now would be left there: with its link, its rules and its host ports.
/// To be asked before anything is done for the pods on record, or for that bridge.
async fn refuse_to_leave_pods(node: &Node) -> anyhow::Result<()> {
    let elsewhere = node.network.pods_elsewhere().await.context("look for pods on other bridges")?;
    let folder = node.layout.pods();
    let Some((pod, bridge)) = elsewhere.iter().find(|(pod, _)| folder.join(pod).exists()) else { return Ok(()) };
    let reason = format!("sandbox {pod} is connected to bridge {bridge}: stop the pods there first, or go back to it");
    Err(node.config.refused("network.bridge", &reason).into())
}

/// The server that clients of exec, attach and port-forward are sent to.
async fn listen_for_streams(node: &Node) -> anyhow::Result<podbox_stream::Server> {
    let address = node.config.stream.address.0;
    let server = listen(node, address, podbox_stream::Server::bind, |server| server.address().port()).await;
    let server = server.map_err(|error| node.config.refused("stream.address", &format!("{error:#}")))?;
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(%address, "stream.address is reached from outside, and what goes over it is not encrypted");
    }
    tracing::info!(address = %server.address(), "serving streams");
    Ok(server)
}

/// The server of podbox's own metrics, where the configuration wants one.
async fn listen_for_scrapes(node: &Node) -> anyhow::Result<Option<MetricsServer>> {
    let Some(address) = node.config.metrics.address.0 else { return Ok(None) };
    anyhow::ensure!(
        address.ip().to_canonical().is_loopback(),
        "metrics.address: {address} is no loopback address: nobody asks who reads metrics"
    );
    let server = listen(node, address, MetricsServer::bind, |server| server.address().port()).await;
    let server = server.map_err(|error| node.config.refused("metrics.address", &format!("{error:#}")))?;
    tracing::info!(address = %server.address(), "serving metrics");
    Ok(Some(server))
}

/// Takes an address that no host port leads away from, and keeps it from pods. Where any port will do it is one that is no pod's.
async fn listen<S>(
    node: &Node,
    address: SocketAddr,
    bind: impl AsyncFn(SocketAddr) -> std::io::Result<S>,
    port: impl Fn(&S) -> u16,
) -> anyhow::Result<S> {
    // Held until another one is found, so that they are not found again.
    let mut taken = Vec::new();
    loop {
        let server = bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let found = SocketAddr::new(address.ip(), port(&server));
        match node.network.keep(found) {
            Ok(()) => return Ok(server),
            Err(_) if address.port() == 0 => taken.push(server),
            Err(pod) => anyhow::bail!("TCP port {} is a host port of sandbox {pod}", found.port()),
        }
    }
}

/// How many pods and containers are in which state.
fn population(store: &Store) -> Population {
    let mut population = Population::default();
    for sandbox in store.sandboxes() {
        match sandbox.phase {
            SandboxPhase::Ready => population.pods_ready += 1,
            SandboxPhase::Creating | SandboxPhase::NotReady => population.pods_not_ready += 1,
        }
    }
    for container in store.containers() {
        match container.phase {
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => population.containers_created += 1,
            ContainerPhase::Running { .. } => population.containers_running += 1,
            ContainerPhase::Exited { .. } => population.containers_exited += 1,
        }
    }
    population
}

async fn discover(config: Config, open_files: Rlimit, no_user_namespaces: Option<String>) -> anyhow::Result<Node> {
    let hierarchies = Hierarchies::discover().context("find the cgroup hierarchies")?;
    let driver = choose_driver(config.cgroup.driver, &hierarchies).await;
    let driver = driver.map_err(|error| config.refused("cgroup.driver", &Chain(&error).to_string()))?;
    let pod_parent = PodParent::new(driver, config.cgroup.parent.as_str());
    let pod_parent = pod_parent.map_err(|error| config.refused("cgroup.parent", &error.to_string()))?;
    tracing::info!(%driver, "the cgroup driver");
    let options = StoreOptions { default_registry: config.image.default_registry.as_str().to_owned(), ..StoreOptions::default() };
    let layout = Layout::new(config.state_dir.as_ref().to_owned());
    let subnets = pod_subnets(&config, &layout);
    let images = ImageStore::open_with(config.root_dir.as_ref(), options).context("open the image store")?;
    let images = Arc::new(images);
    let puller = Puller::new(images.clone(), config.image.pull_options());
    let pinned = pinned_images(&config)?;
    let facts = discover_facts(&hierarchies, driver, no_user_namespaces).context("find out about the node")?;
    let confining = Arc::new(Confining::new(&facts.kernel, facts.seccomp, facts.apparmor, facts.selinux));
    Ok(Node {
        facts,
        confining,
        pod_parent,
        layers: Arc::new(Layers::new(images.clone())),
        images,
        puller,
        pinned,
        meters: Meters::new(hierarchies.clone()),
        metrics: Arc::new(Metrics::default()),
        network: Network::new(config.network.bridge.as_str(), &subnets).context("network.subnets")?,
        programs: Programs::load(open_files).context("load pause and the monitor")?,
        captures: CaptureRoom::default(),
        hierarchies,
        layout,
        config,
    })
}

/// The images that are to stay.
fn pinned_images(config: &Config) -> anyhow::Result<Arc<[Reference]>> {
    let parse = |name: &String| Reference::parse(name, config.image.default_registry.as_str());
    let parsed: Result<Vec<Reference>, _> = config.image.pinned.iter().map(parse).collect();
    Ok(parsed.map_err(|error| config.refused("image.pinned", &error.to_string()))?.into())
}

/// The subnets of new pods: what the kubelet said last holds, until it says otherwise.
fn pod_subnets(config: &Config, layout: &Layout) -> Vec<IpNetwork> {
    let configured = config.network.subnets.as_slice();
    let path = layout.network();
    let Ok(told) = read_record::<Vec<IpNetwork>>(&path) else { return configured.to_vec() };
    if told != configured {
        tracing::warn!(
            ?told,
            ?configured,
            "UpdateRuntimeConfig set other pod subnets than network.subnets, and those hold: to go back, remove {} and start the daemon again",
            path.display()
        );
    }
    told
}

/// Connections as they come. One that cannot be taken, for want of descriptors, would be offered again at once, and again.
fn connections(listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    UnixListenerStream::new(listener).then(async |connection| {
        if connection.is_err() {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        connection
    })
}

async fn answer(cri: Cri, log: LogCalls, listener: UnixListener, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RuntimeServiceServer<Cri>>().await;
    health.set_serving::<ImageServiceServer<Cri>>().await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let runtime = RuntimeServiceServer::new(cri.clone());
    let images = ImageServiceServer::new(cri);
    let (ask_to_stop, stopping) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        // The peer is root: calls that it gives up on are no attack.
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .layer(log)
        .add_service(runtime.max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX))
        .add_service(images.max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX))
        .add_service(health_service)
        .add_service(describe().build_v1().context("describe the services")?)
        .add_service(describe().build_v1alpha().context("describe the services to older clients")?)
        .serve_with_incoming_shutdown(connections(listener), async {
            let _ = stopping.await;
        });
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("serve"),
        () = stop => {}
    }
    let _ = ask_to_stop.send(());
    match tokio::time::timeout(GOODBYE, server).await {
        Ok(ended) => ended.context("serve"),
        Err(_) => Ok(()),
    }
}
