//! Log lines in the CRI's format, `TIME STREAM TAGS TEXT`, as they come out of a file, in whatever pieces.
//!
//! A line that was too long for one log line is several, all but the last of them tagged `P`; here they are one again, and none of it is kept:
//! each piece of text goes on as it comes.

/// More than a time, a stream and tags are long.
const HEAD_BYTES_MAX: usize = 128;

/// Which output of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

/// Who is told of lines.
pub(super) trait Sink {
    /// What cannot be told.
    type Error;

    /// A line begins.
    fn begin(&mut self, source: Source, time: &str) -> Result<(), Self::Error>;
    /// Some of the text of the line of this output that began last.
    fn text(&mut self, source: Source, text: &[u8]) -> Result<(), Self::Error>;
    /// That line is complete.
    fn end(&mut self, source: Source) -> Result<(), Self::Error>;
    /// Something in the file that is no log line was passed over.
    fn malformed(&mut self);
}

/// Of one output: where its lines are.
#[derive(Debug, Clone, Copy, Default)]
struct Output {
    /// The last log line was partial, and the next goes on with it.
    is_within: bool,
    /// The line is one of those to be left out.
    is_skipped: bool,
}

/// Where in a log line the file has been read to.
#[derive(Debug)]
enum Position {
    /// The bytes of its head so far.
    Head(Vec<u8>),
    Text {
        source: Source,
        is_partial: bool,
    },
    /// In what is no log line.
    Junk,
}

/// Finds the lines.
#[derive(Debug)]
pub(super) struct Splitter {
    position: Position,
    outputs: [Output; 2],
    /// Lines that are still to be left out.
    skipped_left: u64,
    /// Lines that have begun.
    pub begun: u64,
}

impl Splitter {
    /// One that leaves out the first so many lines.
    pub(super) fn skipping(lines: u64) -> Self {
        Self { position: Position::Head(Vec::new()), outputs: [Output::default(); 2], skipped_left: lines, begun: 0 }
    }

    /// Takes what comes next of the file.
    pub(super) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = (&bytes[..end.unwrap_or(bytes.len())], &bytes[end.map_or(bytes.len(), |end| end + 1)..]);
            self.take(part, sink)?;
            if end.is_some() {
                self.end_line(sink)?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Another file begins: what was torn at the end of the one before is none of its lines.
    pub(super) fn next_file(&mut self) {
        self.position = Position::Head(Vec::new());
    }

    /// A part of one log line.
    fn take<S: Sink>(&mut self, mut part: &[u8], sink: &mut S) -> Result<(), S::Error> {
        if let Position::Head(head) = &mut self.position {
            let known = head.len();
            head.extend_from_slice(&part[..part.len().min(HEAD_BYTES_MAX - known)]);
            match parse_head(head) {
                Some((length, time, source, is_partial)) => {
                    let time = time.to_owned();
                    self.position = Position::Text { source, is_partial };
                    self.begin(source, &time, sink)?;
                    part = &part[length - known..];
                }
                None if head.len() == HEAD_BYTES_MAX => {
                    self.position = Position::Junk;
                    sink.malformed();
                }
                None => return Ok(()),
            }
        }
        match self.position {
            Position::Text { source, .. } if !part.is_empty() && !self.outputs[source as usize].is_skipped => sink.text(source, part),
            _ => Ok(()),
        }
    }

    fn begin<S: Sink>(&mut self, source: Source, time: &str, sink: &mut S) -> Result<(), S::Error> {
        let output = &mut self.outputs[source as usize];
        if output.is_within {
            return Ok(());
        }
        self.begun += 1;
        output.is_skipped = self.skipped_left > 0;
        self.skipped_left = self.skipped_left.saturating_sub(1);
        if output.is_skipped { Ok(()) } else { sink.begin(source, time) }
    }

    fn end_line<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        match std::mem::replace(&mut self.position, Position::Head(Vec::new())) {
            Position::Text { source, is_partial } => {
                let output = &mut self.outputs[source as usize];
                output.is_within = is_partial;
                if is_partial || output.is_skipped { Ok(()) } else { sink.end(source) }
            }
            Position::Head(_) => {
                sink.malformed();
                Ok(())
            }
            Position::Junk => Ok(()),
        }
    }
}

/// The head of a log line, if it is whole: its length, the time, the output, and whether the line goes on in the next.
fn parse_head(head: &[u8]) -> Option<(usize, &str, Source, bool)> {
    let mut words = head.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags, _text) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let source = match stream {
        b"stdout" => Source::Stdout,
        b"stderr" => Source::Stderr,
        _ => return None,
    };
    let time_text = std::str::from_utf8(time).ok().filter(|time| time.len() >= 20)?;
    let is_partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some((time.len() + stream.len() + tags.len() + 3, time_text, source, is_partial))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[derive(Default)]
    struct Told(String);

    impl Sink for Told {
        type Error = Infallible;

        fn begin(&mut self, source: Source, time: &str) -> Result<(), Infallible> {
            self.0 += &format!("<{source:?} {}>", &time[time.len() - 3..]);
            Ok(())
        }

        fn text(&mut self, _: Source, text: &[u8]) -> Result<(), Infallible> {
            self.0 += &String::from_utf8_lossy(text);
            Ok(())
        }

        fn end(&mut self, source: Source) -> Result<(), Infallible> {
            self.0 += &format!("</{source:?}>");
            Ok(())
        }

        fn malformed(&mut self) {
            self.0 += "<?>";
        }
    }

    const LOG: &str = "2026-11-22T04:10:00.000000001Z stdout F one two  three
2026-11-22T04:10:00.000000002Z stdout P long
2026-11-22T04:10:00.000000003Z stderr F 
torn
2026-11-22T04:10:00.000000004Z stdout P er
2026-11-22T04:10:00.000000005Z stdout F 
2026-11-22T04:10:00.000000006Z stdout P no end
";

    fn told(skipped: u64, piece_bytes: usize) -> (String, u64) {
        let (mut splitter, mut told) = (Splitter::skipping(skipped), Told::default());
        for piece in LOG.as_bytes().chunks(piece_bytes) {
            let Ok(()) = splitter.feed(piece, &mut told);
        }
        (told.0, splitter.begun)
    }

    #[test]
    fn partial_lines_are_joined_however_the_file_is_read() {
        let all = "<Stdout 01Z>one two  three</Stdout><Stdout 02Z>long<Stderr 03Z></Stderr><?>er</Stdout><Stdout 06Z>no end";
        for piece_bytes in [1, 2, 7, 33, 1000] {
            assert_eq!(told(0, piece_bytes), (all.to_owned(), 4), "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn lines_that_are_left_out_are_so_with_all_their_parts() {
        assert_eq!(told(2, 1000).0, "<Stderr 03Z></Stderr><?><Stdout 06Z>no end");
        assert_eq!(told(9, 1000).0, "<?>");
    }

    #[test]
    fn what_has_no_head_is_passed_over_and_not_kept() {
        let (mut splitter, mut told) = (Splitter::skipping(0), Told::default());
        for _ in 0..1000 {
            let Ok(()) = splitter.feed(&[b'x'; 1000], &mut told);
        }
        let Ok(()) = splitter.feed(b"\n2026-11-22T04:10:00.000000001Z stdout F next\n", &mut told);
        assert_eq!(told.0, "<?><Stdout 01Z>next</Stdout>");
    }
}
