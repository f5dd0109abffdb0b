//! Cutting a stream of output into log lines, in bounded memory.

/// The most text of one log line; a longer output line becomes several.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// How a log line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// With the output line: a newline stood there.
    Full,
    /// Within an output line: the next log line goes on with it, or nothing came after it.
    Partial,
}

/// Cuts one stream. Holds at most [`TEXT_BYTES_MAX`] of a line whose end has not come.
#[derive(Debug, Default)]
pub struct LineSplitter {
    held: Vec<u8>,
}

impl LineSplitter {
    /// Takes output and gives out every line that is complete or too long, its text in two pieces.
    pub fn feed(&mut self, mut output: &[u8], mut emit: impl FnMut(Tag, [&[u8]; 2])) {
        while !output.is_empty() {
            let room = TEXT_BYTES_MAX - self.held.len();
            // One byte more than fits, for it may be the newline.
            let window = &output[..output.len().min(room + 1)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                emit(Tag::Full, [&self.held, &output[..end]]);
                self.held.clear();
                output = &output[end + 1..];
            } else if window.len() > room {
                emit(Tag::Partial, [&self.held, &output[..room]]);
                self.held.clear();
                output = &output[room..];
            } else {
                self.held.extend_from_slice(output);
                output = &[];
            }
        }
    }

    /// Gives out what no newline ended, once nothing more can come. It is partial, so that a reader who puts the lines together
    /// again gets exactly what was written.
    pub fn finish(&mut self, mut emit: impl FnMut(Tag, [&[u8]; 2])) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            emit(Tag::Partial, [&held, &[]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(feeds: &[&[u8]]) -> Vec<(Tag, Vec<u8>)> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for feed in feeds {
            splitter.feed(feed, |tag, text| lines.push((tag, text.concat())));
            assert!(splitter.held.len() <= TEXT_BYTES_MAX);
        }
        splitter.finish(|tag, text| lines.push((tag, text.concat())));
        lines
    }

    #[test]
    fn lines_end_at_newlines_however_they_arrive() {
        let whole = split(&[b"a\n\nbc\nd"]);
        assert_eq!(whole, [(Tag::Full, b"a".to_vec()), (Tag::Full, vec![]), (Tag::Full, b"bc".to_vec()), (Tag::Partial, b"d".to_vec())]);
        assert_eq!(split(&[b"a", b"\n\nb", b"c", b"\n", b"d"]), whole);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_and_of_one_more_is_two() {
        let limit = vec![b'x'; TEXT_BYTES_MAX];
        assert_eq!(split(&[&limit, b"\n"]), [(Tag::Full, limit.clone())]);
        assert_eq!(split(&[&limit, b"y\n"]), [(Tag::Partial, limit.clone()), (Tag::Full, b"y".to_vec())]);
        let mut both = limit.clone();
        both.extend_from_slice(b"y\n");
        assert_eq!(split(&[&both]), [(Tag::Partial, limit), (Tag::Full, b"y".to_vec())]);
    }

    #[test]
    fn nothing_is_lost_of_a_line_without_end() {
        let output: Vec<u8> = (0..5 * TEXT_BYTES_MAX + 17).map(|at| b'a' + (at % 26) as u8).collect();
        for chunk in [1_000, TEXT_BYTES_MAX - 1, TEXT_BYTES_MAX, TEXT_BYTES_MAX + 1, output.len()] {
            let feeds: Vec<&[u8]> = output.chunks(chunk).collect();
            let lines = split(&feeds);
            assert!(lines.iter().all(|(tag, text)| *tag == Tag::Partial && text.len() <= TEXT_BYTES_MAX));
            assert_eq!(lines.into_iter().flat_map(|(_, text)| text).collect::<Vec<_>>(), output);
        }
    }
}
