//! One log line a call, and a count: its name, how long it took, what came of it. Calls end here at their callers' deadlines.

use crate::metrics::Metrics;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// The layer.
#[derive(Debug, Clone)]
pub struct LogCalls {
    metrics: Arc<Metrics>,
}

impl LogCalls {
    /// A layer that counts calls as well.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for LogCalls {
    type Service = Logged<S>;

    fn layer(&self, service: S) -> Logged<S> {
        Logged { service, metrics: self.metrics.clone() }
    }
}

/// A service with the layer.
#[derive(Debug, Clone)]
pub struct Logged<S> {
    service: S,
    metrics: Arc<Metrics>,
}

impl<S, B, R> Service<Request<B>> for Logged<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let started = Instant::now();
        let timeout = timeout(request.headers());
        let answer = self.service.call(request);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let _under_way = metrics.calls_under_way.enter();
            let answer = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Ok(late().into_http())),
                None => answer.await,
            };
            if let Ok(response) = &answer {
                report(&metrics, &call, started, response);
            }
            answer
        })
    }
}

/// tonic ends calls at their deadlines as well, but calls that `CANCELLED`: it must not come first.
const BEFORE_TONIC: Duration = Duration::from_millis(1);

fn late() -> Status {
    Status::deadline_exceeded("the call took longer than its caller wanted to wait")
}

/// How long a caller waits: `grpc-timeout`, at most eight digits and a unit (gRPC over HTTP/2, Requests). One that makes no sense is none.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 60 * 60),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.saturating_sub(BEFORE_TONIC))
}

/// A failed call carries its status in the headers; where they have none the call went well, or its stream begins.
fn report<R>(metrics: &Metrics, call: &str, started: Instant, response: &Response<R>) {
    let status = response.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    let code = status.and_then(|text| text.parse::<i32>().ok()).map_or(Code::Ok, Code::from_i32);
    let duration = started.elapsed();
    metrics.count_call(call, code_name(code), duration);
    let duration_ms = duration.as_secs_f64() * 1000.0;
    let duration_ms = (duration_ms * 1000.0).round() / 1000.0;
    match code {
        Code::Ok => tracing::info!(call, duration_ms, outcome = "ok"),
        code => {
            let message = Status::from_header_map(response.headers()).map(|status| status.message().to_owned());
            tracing::info!(call, duration_ms, outcome = ?code, message = message.unwrap_or_default());
        }
    }
}

/// A code as gRPC's documentation spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_ends_at_its_callers_deadline_and_is_told_to_have() {
        let never = tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<String>, Status>>());
        let request = Request::builder().uri("/service/Call").header("grpc-timeout", "5m").body(()).expect("a request");
        let answer = LogCalls::new(Arc::default()).layer(never).call(request).await.expect("an answer");
        assert_eq!(Status::from_header_map(answer.headers()).map(|status| status.code()), Some(Code::DeadlineExceeded));
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let of = |text: &str| timeout(&HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), text.parse().expect("a value"))]));
        for (text, milliseconds) in [("2H", 7_200_000), ("3M", 180_000), ("5S", 5_000), ("250m", 250), ("7000u", 7), ("9000000n", 9)] {
            assert_eq!(of(text), Some(Duration::from_millis(milliseconds) - BEFORE_TONIC), "{text}");
        }
        assert_eq!(of("1u"), Some(Duration::ZERO));
        for text in ["", "S", "5", "5x", "-1S", "123456789S"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
