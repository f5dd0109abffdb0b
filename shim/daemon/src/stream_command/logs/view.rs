//! How lines are shown: as they were written, or as an object each.

use super::lines::{Sink, Source};
use serde_json::json;
use std::io::{self, BufWriter, Write};

/// The most text in one object; a longer line is several.
const OBJECT_TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Standard output and error, and how to write to them.
pub(super) struct View {
    stdout: BufWriter<io::Stdout>,
    stderr: BufWriter<io::Stderr>,
    /// Objects, or text.
    objects: Option<[Object; 2]>,
    timestamps: bool,
    malformed: u64,
}

/// A line whose end has not come, of one of the outputs.
#[derive(Default)]
struct Object {
    time: String,
    text: Vec<u8>,
}

impl View {
    pub(super) fn new(objects: bool, timestamps: bool) -> Self {
        let (stdout, stderr) = (BufWriter::new(io::stdout()), BufWriter::new(io::stderr()));
        Self { stdout, stderr, objects: objects.then(Default::default), timestamps, malformed: 0 }
    }

    /// Everything that is there to be seen is.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        for source in [Source::Stdout, Source::Stderr] {
            self.write_object(source, true, |object| object.text.len())?;
        }
        if self.malformed > 0 {
            writeln!(self.stderr, "podbox: {} lines of the file are no log lines and were passed over", self.malformed)?;
        }
        Ok(self.flush()?)
    }

    /// Where text of an output goes; what the other one has had before stands before it, where both are one terminal.
    fn sink(&mut self, source: Source) -> io::Result<&mut dyn Write> {
        match source {
            Source::Stdout => {
                self.stderr.flush()?;
                Ok(&mut self.stdout)
            }
            Source::Stderr => {
                self.stdout.flush()?;
                Ok(&mut self.stderr)
            }
        }
    }

    /// Writes what is there of a line, as much as `length` says; nothing for a part that is empty.
    fn write_object(&mut self, source: Source, is_partial: bool, length: impl FnOnce(&Object) -> usize) -> io::Result<()> {
        let Some(object) = self.objects.as_mut().map(|objects| &mut objects[source as usize]) else { return Ok(()) };
        let length = length(object);
        if is_partial && length == 0 {
            return Ok(());
        }
        let stream = if source == Source::Stdout { "stdout" } else { "stderr" };
        let mut shown = json!({"time": object.time, "stream": stream, "text": String::from_utf8_lossy(&object.text[..length])});
        if is_partial {
            shown["partial"] = true.into();
        }
        object.text.drain(..length);
        writeln!(self.stdout, "{shown}")
    }
}

/// How much of a text can be shown without cutting a character in two.
fn whole_characters(text: &[u8]) -> usize {
    match text.utf8_chunks().last() {
        // The beginning of a character may be up to three bytes.
        Some(chunk) if !chunk.invalid().is_empty() && chunk.invalid().len() < text.len() => text.len() - chunk.invalid().len(),
        _ => text.len(),
    }
}

impl Sink for View {
    type Error = io::Error;

    fn begin(&mut self, source: Source, time: &str) -> io::Result<()> {
        if let Some(objects) = &mut self.objects {
            objects[source as usize] = Object { time: time.to_owned(), text: Vec::new() };
        } else if self.timestamps {
            write!(self.sink(source)?, "{time} ")?;
        }
        Ok(())
    }

    fn text(&mut self, source: Source, text: &[u8]) -> io::Result<()> {
        let Some(objects) = &mut self.objects else { return self.sink(source)?.write_all(text) };
        let object = &mut objects[source as usize];
        object.text.extend_from_slice(text);
        if object.text.len() > OBJECT_TEXT_BYTES_MAX {
            self.write_object(source, true, |object| whole_characters(&object.text))?;
        }
        Ok(())
    }

    fn end(&mut self, source: Source) -> io::Result<()> {
        match self.objects {
            Some(_) => self.write_object(source, false, |object| object.text.len()),
            None => self.sink(source)?.write_all(b"\n"),
        }
    }

    fn malformed(&mut self) {
        self.malformed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_unless_it_is_none() {
        let text = "aä€😀".as_bytes();
        assert_eq!(whole_characters(text), text.len());
        for (cut, whole) in [(9, 6), (8, 6), (7, 6), (6, 6), (5, 3), (4, 3), (3, 3), (2, 1), (1, 1)] {
            assert_eq!(whole_characters(&text[..cut]), whole, "{cut}");
        }
        assert_eq!(whole_characters(&[0xff]), 1, "or nothing would ever be shown");
    }
}
