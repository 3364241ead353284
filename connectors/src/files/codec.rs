//! Decompression that can stop at any byte and go on when more has arrived.
//!
//! A compressed file is a sequence of members (gzip) or frames (zstd), each of which says itself where
//! it ends and carries a checksum. A decoder is pushed what there is; it never asks for more, so a
//! file of which only a part has arrived is no error, and a contradiction in the data always is.

use flate2::{Decompress, FlushDecompress, Status};
use std::fmt;
use zstd::stream::raw::{Decoder as Zstd, Operation};

/// The largest window of gzip, which every encoder uses.
const GZIP_WINDOW_BITS: u8 = 15;

/// How much output a step makes room for.
const STEP_BYTES: usize = 64 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Codec {
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Codec {
    /// By the end of a file's name; `None`: not compressed.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "gz" => Some(Self::Gzip),
            "zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// A decoder that stands before a member.
    pub(super) fn decoder(self) -> Result<Decoder, String> {
        Ok(match self {
            Self::Gzip => Decoder::Gzip(Decompress::new_gzip(GZIP_WINDOW_BITS)),
            Self::Zstd => Decoder::Zstd(Zstd::new().map_err(|error| error.to_string())?),
        })
    }

    /// How many of the bytes between two members are padding: gzip files may be filled up with zeros.
    pub(super) fn padding(self, between: &[u8]) -> usize {
        match self {
            Self::Gzip => between.iter().take_while(|byte| **byte == 0).count(),
            Self::Zstd => 0,
        }
    }
}

/// The state of a member's decompression.
pub(super) enum Decoder {
    /// One member.
    Gzip(Decompress),
    /// One frame after the other.
    Zstd(Zstd<'static>),
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// Bytes of input that were taken.
    pub(super) read: usize,
    /// Bytes of output that were added.
    pub(super) wrote: usize,
    /// There may be more output without more input.
    pub(super) pending: bool,
    /// The member is complete and its checksum right.
    pub(super) ended: bool,
}

impl Decoder {
    /// Takes some of the input and adds what comes of it to `out`, a bounded amount.
    pub(super) fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, String> {
        let from = out.len();
        out.resize(from + STEP_BYTES, 0);
        let stepped = match self {
            Self::Gzip(decoder) => step_gzip(decoder, input, &mut out[from..]),
            Self::Zstd(decoder) => step_zstd(decoder, input, &mut out[from..]),
        };
        out.truncate(from + stepped.as_ref().map_or(0, |step| step.wrote));
        stepped
    }
}

fn step_gzip(decoder: &mut Decompress, input: &[u8], out: &mut [u8]) -> Result<Step, String> {
    let (read, wrote) = (decoder.total_in(), decoder.total_out());
    let status = decoder.decompress(input, out, FlushDecompress::None).map_err(|error| error.to_string())?;
    let wrote = (decoder.total_out() - wrote) as usize;
    let ended = status == Status::StreamEnd;
    Ok(Step {
        read: (decoder.total_in() - read) as usize,
        wrote,
        pending: !ended && wrote == out.len(),
        ended,
    })
}

fn step_zstd(decoder: &mut Zstd<'static>, input: &[u8], out: &mut [u8]) -> Result<Step, String> {
    let done = decoder.run_on_buffers(input, out).map_err(|error| error.to_string())?;
    let ended = done.remaining == 0;
    Ok(Step {
        read: done.bytes_read,
        wrote: done.bytes_written,
        pending: !ended && done.bytes_written == out.len(),
        ended,
    })
}
