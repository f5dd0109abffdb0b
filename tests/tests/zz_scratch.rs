use podbox_tests::*;
use std::time::Instant;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_time() -> anyhow::Result<()> {
    let daemon = Daemon::for_test().await?;
    for round in 0..8 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("p{round}"))).await?;
        let spec = ContainerSpec::sleeper("c");
        if round % 2 == 0 {
            let c = pod.run(&spec).await?;
            c.stop(0).await?;
            c.remove().await?;
        }
        let c = pod.run(&spec).await?;
        println!("{}", c.sh("ulimit -n; ulimit -Hn; ulimit -u").await?.replace('\n', " "));
        let t = Instant::now();
        pod.stop().await?;
        println!("round {round}: {:?}", t.elapsed());
        pod.remove().await?;
    }
    panic!("show");
}
