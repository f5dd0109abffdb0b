//! How a pull is shown: on a terminal a bar for each layer that moves, elsewhere a line for each thing that is done.

use podbox_image::{Digest, PullProgress};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Faster than this nobody reads.
const REDRAW: Duration = Duration::from_millis(80);
/// More layers than this scroll out of small terminals: the rest is in the last line's count.
const BARS_MAX: usize = 12;
const BAR_WIDTH: u64 = 30;

/// One pull, for whoever watches.
pub(super) struct PullView {
    state: Mutex<State>,
    /// Bars, or lines.
    bars: bool,
}

struct State {
    layers: Vec<Layer>,
    downloaded_bytes: u64,
    begun: Instant,
    drawn: Option<Instant>,
    /// Lines on the terminal that the next drawing replaces.
    lines: usize,
}

struct Layer {
    blob: Digest,
    size_bytes: u64,
    got_bytes: u64,
    is_done: bool,
}

impl PullView {
    pub(super) fn new(bars: bool) -> Self {
        Self { state: Mutex::new(State { layers: Vec::new(), downloaded_bytes: 0, begun: Instant::now(), drawn: None, lines: 0 }), bars }
    }

    /// Takes note of what the pull does, and shows it.
    pub(super) fn tell(&self, event: PullProgress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let line = state.note(event);
        let text = if self.bars { state.redraw(false) } else { line };
        write(&text);
    }

    /// Leaves the last state on the terminal.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bars {
            let text = state.redraw(true);
            write(&text);
        }
    }
}

/// Progress is for whoever looks; if nobody can, the work goes on.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl State {
    /// What a line is for that.
    fn note(&mut self, event: PullProgress) -> String {
        match event {
            PullProgress::Image { id, layers } => {
                let line = format!("image {} ({} layers)\n", short(&id), layers.len());
                let layer = |(blob, size_bytes)| Layer { blob, size_bytes, got_bytes: 0, is_done: false };
                self.layers = layers.into_iter().map(layer).collect();
                line
            }
            PullProgress::Present { blob } => {
                self.done(&blob);
                format!("layer {} is there\n", short(&blob))
            }
            PullProgress::Bytes { blob, count } => {
                let found = self.layers.iter_mut().find(|layer| layer.blob == blob);
                let Some(layer) = found else { return String::new() };
                self.downloaded_bytes += count;
                let is_first = layer.got_bytes == 0;
                // A layer that is begun again at another place counts anew.
                layer.got_bytes = if layer.got_bytes >= layer.size_bytes { count } else { layer.got_bytes + count };
                if is_first { format!("layer {} downloading {:.1} MB\n", short(&blob), megabytes(layer.size_bytes)) } else { String::new() }
            }
            PullProgress::Unpacked { blob } => {
                self.done(&blob);
                format!("layer {} unpacked\n", short(&blob))
            }
        }
    }

    fn done(&mut self, blob: &Digest) {
        for layer in self.layers.iter_mut().filter(|layer| layer.blob == *blob) {
            layer.is_done = true;
            layer.got_bytes = layer.size_bytes;
        }
    }

    fn redraw(&mut self, is_last: bool) -> String {
        let now = Instant::now();
        if !is_last && self.drawn.is_some_and(|drawn| now.duration_since(drawn) < REDRAW) {
            return String::new();
        }
        self.drawn = Some(now);
        let mut text = if self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() };
        let moving = self.layers.iter().filter(|layer| !layer.is_done && layer.got_bytes > 0).take(BARS_MAX);
        let mut lines = 0;
        for layer in moving {
            text.push_str(&layer.bar());
            lines += 1;
        }
        if !self.layers.is_empty() {
            text.push_str(&self.summary(now));
            lines += 1;
        }
        self.lines = lines;
        text
    }

    fn summary(&self, now: Instant) -> String {
        let done = self.layers.iter().filter(|layer| layer.is_done).count();
        let got: u64 = self.layers.iter().map(|layer| layer.got_bytes).sum();
        // Layers that were there are no part of the speed.
        let all: u64 = self.layers.iter().map(|layer| layer.size_bytes).sum();
        let speed = megabytes(self.downloaded_bytes) / now.duration_since(self.begun).as_secs_f64().max(0.001);
        format!("{done}/{} layers  {:.1}/{:.1} MB  {speed:.1} MB/s\n", self.layers.len(), megabytes(got), megabytes(all))
    }
}

impl Layer {
    fn bar(&self) -> String {
        let filled = (self.got_bytes * BAR_WIDTH).checked_div(self.size_bytes).unwrap_or(BAR_WIDTH).min(BAR_WIDTH) as usize;
        let (full, empty) = ("━".repeat(filled), "─".repeat(BAR_WIDTH as usize - filled));
        format!("{} {full}{empty} {:.1}/{:.1} MB\n", short(&self.blob), megabytes(self.got_bytes), megabytes(self.size_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_in_lines_and_drawn_in_bars_that_replace_each_other() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let events = || {
            [
                PullProgress::Image { id: Digest::of(b"i"), layers: vec![(a.clone(), 2_000_000), (b.clone(), 1_000_000)] },
                PullProgress::Present { blob: b.clone() },
                PullProgress::Bytes { blob: a.clone(), count: 1_000_000 },
                PullProgress::Bytes { blob: a.clone(), count: 1_000_000 },
                PullProgress::Unpacked { blob: a.clone() },
            ]
        };
        let state = || State { layers: Vec::new(), downloaded_bytes: 0, begun: Instant::now(), drawn: None, lines: 0 };
        let mut plain = state();
        let lines: String = events().into_iter().map(|event| plain.note(event)).collect();
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(lines.contains("downloading 2.0 MB") && !lines.contains('\x1b'), "{lines}");
        let mut bars = state();
        for event in events().into_iter().take(3) {
            bars.note(event);
        }
        let drawn = bars.redraw(true);
        assert!(drawn.contains(&format!("{} {}{} 1.0/2.0 MB", short(&a), "━".repeat(15), "─".repeat(15))), "{drawn}");
        assert!(drawn.contains("1/2 layers  2.0/3.0 MB"), "{drawn}");
        assert_eq!(bars.redraw(false), "", "not so soon again");
        assert!(bars.redraw(true).starts_with("\x1b[2A"));
    }
}
