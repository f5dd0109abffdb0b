//! What critest's own benchmark finds, with the parameters of `tests/conformance/benchmark.yaml`. Its JSON is kept as it wrote it.

use super::samples::{Percentiles, Samples};
use crate::build::{self, Profile};
use crate::conformance::suite::{self, Parts, Suite};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Several times what it takes.
const TIME_MAX: Duration = Duration::from_secs(20 * 60);
/// The files that critest writes, and what each is about.
const FILES: [(&str, &str); 4] = [
    ("pod", "pod_benchmark_data.json"),
    ("container", "container_benchmark_data.json"),
    ("image", "image_lifecycle_benchmark_data.json"),
    ("images", "image_listing_benchmark_data.json"),
];

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Critest {
    /// Where critest's files are.
    pub(super) folder: PathBuf,
    pub(super) operations: Vec<Operation>,
}

/// One call.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    /// Of what: `pod`, `container`, `image`, `images`.
    pub(super) object: &'static str,
    /// As critest calls it.
    pub(super) name: String,
    pub(super) percentiles: Percentiles,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    operations_names: Vec<String>,
    datapoints: Vec<Datapoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datapoint {
    operations_durations_ns: Vec<u64>,
}

/// Runs it; `None` where there is no Go to build critest with.
///
/// # Errors
/// A part cannot be made, or critest fails.
pub(super) fn measure() -> Result<Option<Critest>> {
    let Some(parts) = Parts::make(Profile::Release)? else {
        eprintln!("not measured: critest's benchmark, which is in Go, and this machine has none");
        return Ok(None);
    };
    let folder = suite::folder().join("benchmark");
    crate::packages::recreate(&folder)?;
    let parameters = build::workspace().join("tests/conformance/benchmark.yaml");
    let suite = Suite::start(&parts, &folder, "benchmark")?;
    let flags = [
        "-benchmark".to_owned(),
        format!("-benchmarking-params-file={}", parameters.display()),
        format!("-benchmarking-output-dir={}", folder.display()),
    ];
    let status = suite.critest(&flags, TIME_MAX)?;
    ensure!(status.success(), "critest -benchmark: {status}; its log is {}", suite.log().display());
    let mut operations = Vec::new();
    for (object, file) in FILES {
        operations.extend(of_file(object, &folder.join(file))?);
    }
    Ok(Some(Critest { folder, operations }))
}

fn of_file(object: &'static str, path: &Path) -> Result<Vec<Operation>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(object, &text).with_context(|| path.display().to_string())
}

fn parse(object: &'static str, text: &str) -> Result<Vec<Operation>> {
    let results: Results = serde_json::from_str(text).context("parse what critest measured")?;
    let operation = |(index, name): (usize, String)| {
        let durations = results.datapoints.iter().filter_map(|datapoint| datapoint.operations_durations_ns.get(index));
        let samples: Samples = durations.map(|nanoseconds| Duration::from_nanos(*nanoseconds)).collect();
        let percentiles = samples.percentiles().with_context(|| format!("{name} was never measured"))?;
        Ok(Operation { object, name, percentiles })
    };
    results.operations_names.into_iter().enumerate().map(operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_the_order_of_the_operations() {
        let text = r#"{"operationsNames": ["CreatePod", "StopPod"], "numParallel": 1, "datapoints": [
            {"sampleIndex": 0, "startTime": 1, "endTime": 2, "operationsDurationsNs": [3000000, 1000000], "metaInfo": null},
            {"sampleIndex": 1, "startTime": 1, "endTime": 2, "operationsDurationsNs": [5000000, 2000000], "metaInfo": null}]}"#;
        let found = parse("pod", text).expect("results");
        let found: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.percentiles.p50_ms, one.percentiles.p99_ms)).collect();
        assert_eq!(found, [("CreatePod", 3.0, 5.0), ("StopPod", 1.0, 2.0)]);
        assert!(parse("pod", r#"{"operationsNames": ["CreatePod"], "numParallel": 1, "datapoints": []}"#).is_err(), "nothing was measured");
    }
}
