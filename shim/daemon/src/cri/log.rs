//! One log line a call, and a count: its name, how long it took, what came of it.

use crate::metrics::Metrics;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::Code;
use tonic::codegen::http::{Request, Response};
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
        let answer = self.service.call(request);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let _under_way = metrics.calls_under_way.enter();
            let answer = answer.await;
            if let Ok(response) = &answer {
                report(&metrics, &call, started, response);
            }
            answer
        })
    }
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
            let message = tonic::Status::from_header_map(response.headers()).map(|status| status.message().to_owned());
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
