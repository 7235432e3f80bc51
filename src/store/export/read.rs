//! Reading an export, strictly and in bounded memory.

use std::io::{self, BufRead, Read};

use super::{Format, Item, csv};

/// The longest line; an entry has some hundred bytes, one about a whole configuration some megabytes.
const MAX: u64 = 64 << 20;

/// Why a line is nothing.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("line {line} cannot be read: {error}")]
    Io { line: u64, error: io::Error },
    #[error("line {line} is not as it was exported")]
    Line { line: u64 },
    #[error("line {line} is longer than {} MiB", MAX >> 20)]
    TooLong { line: u64 },
    #[error("line {line} is cut off")]
    Cut { line: u64 },
    #[error("the first line is neither JSON nor the header of a CSV export")]
    Format,
}

/// Items of a file, in their order.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    format: Format,
    line: u64,
}

impl<R: BufRead> Reader<R> {
    /// Looks which format it is.
    pub fn new(mut input: R) -> Result<Self, Problem> {
        let failed = |error| Problem::Io { line: 1, error };
        if input.fill_buf().map_err(failed)?.first().is_none_or(|byte| *byte == b'{') {
            return Ok(Self { input, format: Format::Jsonl, line: 0 });
        }
        let mut header = vec![0; csv::HEADER.len()];
        match input.read_exact(&mut header) {
            Ok(()) if header == csv::HEADER => Ok(Self { input, format: Format::Csv, line: 1 }),
            Ok(()) => Err(Problem::Format),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Problem::Format),
            Err(error) => Err(failed(error)),
        }
    }

    fn record(&mut self) -> Result<Vec<u8>, Problem> {
        let first = self.line + 1;
        let mut bytes = Vec::new();
        loop {
            let before = bytes.len();
            let left = MAX.saturating_sub(before as u64);
            let taken = self.input.by_ref().take(left).read_until(b'\n', &mut bytes);
            taken.map_err(|error| Problem::Io { line: first, error })?;
            if bytes.is_empty() {
                return Ok(bytes);
            }
            if bytes.len() as u64 >= MAX {
                return Err(Problem::TooLong { line: first });
            }
            if bytes.len() == before || !bytes.ends_with(b"\n") {
                return Err(Problem::Cut { line: first });
            }
            self.line += 1;
            if self.format.is_whole(&bytes) {
                return Ok(bytes);
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Item, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.line + 1;
        let record = match self.record() {
            Ok(record) if record.is_empty() => return None,
            Ok(record) => record,
            Err(problem) => return Some(Err(problem)),
        };
        let item = self.format.parse(&record);
        let same = |item: &Item| self.format.line(item).is_ok_and(|written| written == record);
        Some(item.filter(same).ok_or(Problem::Line { line }))
    }
}
