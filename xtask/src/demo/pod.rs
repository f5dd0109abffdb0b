//! The pod that is shown.

use super::report::CONTAINERS;
use anyhow::Result;
use podbox_proto::v1;
use podbox_tests::{Container, ContainerSpec, Daemon, Pod, PodSpec, TestImage};

const MIB: i64 = 1 << 20;

/// The pod's hostname, which is not its name.
pub(super) const HOSTNAME: &str = "shown-by-the-demo";
/// Where the server listens: on the pod's loopback and nowhere else.
pub(super) const LISTENS_ON: &str = "127.0.0.1:8080";
/// Prints a word that nobody can know beforehand.
pub(super) const RANDOM: &str = "cut -c -8 /proc/sys/kernel/random/uuid";
/// What is asked for: memory in bytes, of the server and of the client.
pub(super) const MEMORY_LIMITS: [i64; 2] = [64 * MIB, 32 * MIB];
/// What is asked for: processor time of the client, in microseconds of each period.
pub(super) const CPU_QUOTA_US: i64 = 25_000;
pub(super) const CPU_PERIOD_US: i64 = 100_000;
/// What is asked for: memory of the one that takes [`GREED`].
pub(super) const GREEDY_LIMIT: i64 = 16 * MIB;
/// What it takes, as `dd` understands it.
pub(super) const GREED: &str = "256M";

/// Two containers that run, in a pod.
pub(super) struct DemoPod {
    pub(super) pod: Pod,
    /// In the order of [`CONTAINERS`].
    pub(super) containers: [Container; 2],
    image: TestImage,
}

/// Runs and removes a pod, so that what the daemon makes once is there.
pub(super) async fn first(daemon: &Daemon) -> Result<()> {
    daemon.warm_up().await?;
    remove_image(daemon, &TestImage::default()).await
}

impl DemoPod {
    /// Makes and imports the image, runs the pod.
    pub(super) async fn run(daemon: &Daemon) -> Result<Self> {
        let image = TestImage::named("demo");
        daemon.import(&image)?;
        let pod = daemon.run_pod(&PodSpec::new("demo").with(|config| HOSTNAME.clone_into(&mut config.hostname))).await?;
        let serve = format!("mkdir /www && {RANDOM} > /www/secret && exec httpd -f -p {LISTENS_ON} -h /www");
        let [server, client] = CONTAINERS;
        let [server_limit, client_limit] = MEMORY_LIMITS;
        let server = ContainerSpec::shell(server, &serve).image(&image.name).memory_limit(server_limit);
        let client = ContainerSpec::sleeper(client).image(&image.name).memory_limit(client_limit).resources(|resources| {
            resources.cpu_quota = CPU_QUOTA_US;
            resources.cpu_period = CPU_PERIOD_US;
        });
        let containers = [pod.run(&server).await?, pod.run(&client).await?];
        Ok(Self { pod, containers, image })
    }

    /// Runs one that takes more memory than it may, until its end.
    pub(super) async fn run_greedy(&self) -> Result<Container> {
        // The buffer of the copy is what takes the memory.
        let command = ["/bin/dd", "if=/dev/zero", "of=/dev/null", &format!("bs={GREED}"), "count=1"];
        let greedy = ContainerSpec::command("greedy", &command).image(&self.image.name).memory_limit(GREEDY_LIMIT);
        let greedy = self.pod.run(&greedy).await?;
        greedy.exited().await?;
        Ok(greedy)
    }

    /// Stops and removes the pod with its containers, and the image.
    pub(super) async fn remove(self, daemon: &Daemon) -> Result<()> {
        self.pod.end().await?;
        remove_image(daemon, &self.image).await
    }
}

async fn remove_image(daemon: &Daemon, image: &TestImage) -> Result<()> {
    let name = v1::ImageSpec { image: image.name.clone(), ..Default::default() };
    daemon.images().remove_image(v1::RemoveImageRequest { image: Some(name) }).await?;
    Ok(())
}
