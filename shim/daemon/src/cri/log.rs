//! One log line a call: its name, how long it took, what came of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::Code;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// The layer.
#[derive(Debug, Clone, Copy)]
pub struct LogCalls;

impl<S> Layer<S> for LogCalls {
    type Service = Logged<S>;

    fn layer(&self, service: S) -> Logged<S> {
        Logged { service }
    }
}

/// A service with the layer.
#[derive(Debug, Clone)]
pub struct Logged<S> {
    service: S,
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
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                report(&call, started, response);
            }
            answer
        })
    }
}

/// A failed call carries its status in the headers; where they have none the call went well, or its stream begins.
fn report<R>(call: &str, started: Instant, response: &Response<R>) {
    let status = response.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    let code = status.and_then(|text| text.parse::<i32>().ok()).map_or(Code::Ok, Code::from_i32);
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    let duration_ms = (duration_ms * 1000.0).round() / 1000.0;
    match code {
        Code::Ok => tracing::info!(call, duration_ms, outcome = "ok"),
        code => {
            let message = tonic::Status::from_header_map(response.headers()).map(|status| status.message().to_owned());
            tracing::info!(call, duration_ms, outcome = ?code, message = message.unwrap_or_default());
        }
    }
}
