// SPDX-License-Identifier: GPL-2.0-only
//! What comes out of the second serial port.
//!
//! Text lines, among them the KTAP, and framed files:
//!
//! ```text
//! @file NAME SIZE
//! <SIZE bytes>
//! @end NAME
//! ```
//!
//! and, as the last line, `@exit STATUS` with the exit status of the suite.
//! initramfs/lib.sh is the writer.

/// A stream taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Everything outside of files and control lines.
    pub text: Vec<u8>,
    /// Name and content of each file, in order.
    pub files: Vec<(String, Vec<u8>)>,
    /// Exit status of the suite, if it came to its end.
    pub exit: Option<i32>,
    /// What was wrong with the frames.
    pub problems: Vec<String>,
}

impl Transcript {
    /// The file `name`, as text.
    pub fn file(&self, name: &str) -> Option<String> {
        let (_, data) = self.files.iter().find(|(n, _)| n == name)?;
        Some(String::from_utf8_lossy(data).into_owned())
    }
}

/// Whether a file of this name may be written into the log folder.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn frame(line: &str) -> Option<(&str, usize)> {
    let (name, size) = line.strip_prefix("@file ")?.split_once(' ')?;
    Some((name, size.parse().ok()?))
}

/// Takes `stream` apart.
pub fn parse(mut stream: &[u8]) -> Transcript {
    let mut transcript = Transcript::default();
    while !stream.is_empty() {
        let end = stream.iter().position(|&b| b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&stream[..end], &stream[end + 1..]),
            None => (stream, &stream[stream.len()..]),
        };
        stream = rest;
        let control = String::from_utf8_lossy(line);
        let control = control.trim_end_matches('\r');
        if let Some(status) = control.strip_prefix("@exit ") {
            transcript.exit = status.parse().ok();
        } else if control.starts_with("@file ") && frame(control).is_none() {
            let problem = format!("{control:?} is no head of a file");
            transcript.problems.push(problem);
        } else if let Some((name, size)) = frame(control) {
            let trailer = format!("\n@end {name}\n");
            if !is_plain(name) {
                let problem = format!("file name {name:?} is not of letters, digits, . _ -");
                transcript.problems.push(problem);
            } else if stream.len() < size || !stream[size..].starts_with(trailer.as_bytes()) {
                let problem = format!("file {name} is damaged or cut off");
                transcript.problems.push(problem);
            } else {
                let data = stream[..size].to_vec();
                transcript.files.push((name.to_owned(), data));
                stream = &stream[size + trailer.len()..];
            }
        } else {
            transcript.text.extend_from_slice(line);
            transcript.text.push(b'\n');
        }
    }
    transcript
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_taken_out_of_the_text() {
        let t = parse(b"ok 1 a\n@file x.txt 5\na\n@b\n\n@end x.txt\nok 2 b\n@exit 0\n");
        assert_eq!(t.text, b"ok 1 a\nok 2 b\n");
        assert_eq!(t.file("x.txt").as_deref(), Some("a\n@b\n"));
        assert_eq!(t.exit, Some(0));
        assert!(t.problems.is_empty());
    }

    #[test]
    fn a_cut_or_misnamed_file_is_a_problem_and_the_rest_is_read() {
        for (stream, problem) in [
            (&b"@file x 50\nabc\nok 1 a\n"[..], "x is damaged"),
            (b"@file x 1\nabc\n@end x\nok 1 a\n", "x is damaged"),
            (b"@file ../x 1\na\n@end ../x\nok 1 a\n", "file name"),
            (b"@file x \n\n@end x\nok 1 a\n", "no head of a file"),
        ] {
            let t = parse(stream);
            assert_eq!(t.problems.len(), 1);
            assert!(t.problems[0].contains(problem), "{:?}", t.problems);
            assert!(t.text.ends_with(b"ok 1 a\n"));
            assert!(t.files.is_empty());
            assert_eq!(t.exit, None);
        }
    }

    proptest! {
        #[test]
        fn any_content_survives(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = format!("a\n@file f {}\n", data.len()).into_bytes();
            stream.extend_from_slice(&data);
            stream.extend_from_slice(b"\n@end f\nb\n@exit 3\n");
            let t = parse(&stream);
            prop_assert_eq!(t.files, vec![("f".to_owned(), data)]);
            prop_assert_eq!(t.text, b"a\nb\n".to_vec());
            prop_assert_eq!(t.exit, Some(3));
        }

        #[test]
        fn no_stream_is_too_odd(data in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&data);
        }
    }
}
