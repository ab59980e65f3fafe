//! The launches of `cuda.cu`, and the bytes of what they read and write.

use crate::gpu::{DevicePointer, Launch};

const CHUNK: usize = 4096;
const CHUNK_THREADS: u32 = 256;
const ROW_THREADS: usize = 512;
const BINS: usize = 16;
const LISTED: usize = 2048;
const PART_BYTES: usize = 16;
const MASS_BYTES: usize = 16;
/// Begins of scratch memory are multiples of this.
const ALIGNMENT: usize = 256;

/// The largest vocabulary: its ids are marked, a bit each, where bins are kept later.
pub const MAX_VOCAB: usize = BINS * ROW_THREADS * 8 * 8;
/// Most ids whose log-probabilities a row can ask for.
pub const MAX_TOP: usize = 20;
/// In place of an index: there is none.
const NONE: u32 = u32::MAX;

/// How the token of one row is chosen. The default is a draw from all ids, at temperature 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The number of the draw, in [0, 1).
    pub uniform: f64,
    /// 0 is greedy: the best score, the lowest id on a tie.
    pub temperature: f32,
    /// Keep the `top_k` best ids and all that tie with the last of them; 0 is off.
    pub top_k: u32,
    /// Keep the shortest run of most likely ids whose mass reaches `top_p`; 1 is off.
    pub top_p: f32,
    /// Drop ids less likely than `min_p` times the most likely; 0 is off.
    pub min_p: f32,
    /// What is done to single scores before.
    pub edits: Edits,
    /// Index of the token among those of [`Sampling::next`]; `None` writes it to [`Sampling::chosen`] alone.
    pub next: Option<u32>,
    /// How many of the most likely ids get log-probabilities, up to [`MAX_TOP`], beside the chosen token; `None` asks
    /// for none at all.
    pub logprobs: Option<u32>,
}

/// Edits of the scores of one row, in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Edits {
    /// Row of [`Sampling::masks`] with the ids that can be chosen: grammar and `allowed_token_ids`.
    pub mask: Option<u32>,
    /// Which of [`Sampling::biases`] are added: from one index to another, sorted by id, and added in their order where
    /// an id has several. A bias of negative infinity forbids: bad words, and stop ids before `min_tokens`.
    pub biases: (u32, u32),
    /// Row of [`Sampling::counts`] with the sequence's tokens. The chosen token is counted in it, so it belongs to one
    /// row. Without it there are no penalties.
    pub counts: Option<u32>,
    /// Divides positive and multiplies negative scores of ids in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted from scores of ids in the output.
    pub presence_penalty: f32,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            uniform: 0.0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            edits: Edits::default(),
            next: None,
            logprobs: None,
        }
    }
}

impl Default for Edits {
    fn default() -> Self {
        Self {
            mask: None,
            biases: (0, 0),
            counts: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
        }
    }
}

impl Row {
    /// Size of a row on the device.
    pub const BYTES: usize = 64;

    /// The row as `cuda.cu` reads it.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        const ACTIVE: u32 = 1;
        const LOGPROBS: u32 = 2;
        let edits = &self.edits;
        let uniform = self.uniform.to_bits();
        let flags = if self.logprobs.is_some() { ACTIVE | LOGPROBS } else { ACTIVE };
        Self::from_words([
            uniform as u32,
            (uniform >> 32) as u32,
            flags,
            self.temperature.to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            // The host's logarithm, for a bound that is the engine's own to the last bit.
            self.min_p.ln().to_bits(),
            edits.repetition_penalty.to_bits(),
            edits.frequency_penalty.to_bits(),
            edits.presence_penalty.to_bits(),
            edits.biases.0,
            edits.biases.1,
            edits.mask.unwrap_or(NONE),
            edits.counts.unwrap_or(NONE),
            self.next.unwrap_or(NONE),
            self.logprobs.unwrap_or_default(),
        ])
    }

    /// A row of padding, for which nothing is read or written.
    pub fn padding() -> [u8; Self::BYTES] {
        [0; Self::BYTES]
    }

    fn from_words(words: [u32; Self::BYTES / 4]) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Something to add to the score of an id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bias {
    /// Beyond the vocabulary: passed over.
    pub id: u32,
    /// Finite, or negative infinity, which forbids the id.
    pub bias: f32,
}

impl Bias {
    /// Size of a bias on the device.
    pub const BYTES: usize = 8;

    /// The bias as `cuda.cu` reads it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        (u64::from(self.bias.to_bits()) << 32 | u64::from(self.id)).to_le_bytes()
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// A token was chosen.
    Token {
        /// It.
        id: u32,
        /// Of the untouched logits, with its rank from 1, if asked for.
        logprob: Option<(f32, u32)>,
    },
    /// A logit is NaN or positive infinity, perhaps only after the edits.
    NotFinite,
    /// Every id is masked.
    NothingAllowed,
}

impl Outcome {
    /// Size of an outcome on the device.
    pub const BYTES: usize = 16;

    /// One of [`Sampling::chosen`]. Unspecified for rows of padding.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |i: usize| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        match (word(1), word(3)) {
            (0, 0) => Self::Token { id: word(0), logprob: None },
            (0, rank) => Self::Token { id: word(0), logprob: Some((f32::from_bits(word(2)), rank)) },
            (1, _) => Self::NotFinite,
            (_, _) => Self::NothingAllowed,
        }
    }
}

/// Operands of a choice on a device.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// f32 `(rows, vocab)`; not changed.
    pub logits: DevicePointer,
    /// `(rows)` of [`Row::to_bytes`], or [`Row::padding`].
    pub parameters: DevicePointer,
    /// [`Bias::to_bytes`], those of a row one after the other.
    pub biases: DevicePointer,
    /// u32 `(n_masks, vocab / 32 rounded up)`: bit `i % 32` of word `i / 32` is set if id `i` is allowed.
    pub masks: DevicePointer,
    /// u32 `(n_counts, vocab)`, filled by [`Counting`]: how often an id occurs in the output, with the highest bit set
    /// if it occurs in the prompt.
    pub counts: DevicePointer,
    /// Of [`Sampling::scratch_bytes`], aligned to 256 bytes. Holds nothing between steps.
    pub scratch: DevicePointer,
    /// `(rows)` of [`Outcome`].
    pub chosen: DevicePointer,
    /// `(rows, MAX_TOP)` of an id (u32) and its log-probability (f32), best first, as many as asked for.
    pub top: DevicePointer,
    /// u32, where the next step reads its input ids. A row that fails gets id 0.
    pub next: DevicePointer,
    /// Above 0, at most 65535.
    pub rows: usize,
    /// Above 0, at most [`MAX_VOCAB`].
    pub vocab: usize,
}

impl Sampling {
    /// Memory that the kernels work in: little more than the logits have, for rows with edits.
    pub fn scratch_bytes(rows: usize, vocab: usize) -> usize {
        Scratch::new(DevicePointer::NULL, rows, vocab).end
    }

    /// The choice. Chunks of rows are reduced in parallel, then each row by a block of its own.
    ///
    /// # Panics
    /// If there are more rows or ids than stated.
    pub fn launches(&self) -> [Launch; 3] {
        assert!((1..=65535).contains(&self.rows), "{} rows to choose for", self.rows);
        assert!((1..=MAX_VOCAB).contains(&self.vocab), "a vocabulary of {} ids", self.vocab);
        let scratch = self.scratch();
        let of_chunks = [self.vocab.div_ceil(CHUNK) as u32, self.rows as u32, 1];
        let scores = Launch::new("sampling_scores", of_chunks, CHUNK_THREADS, 0)
            .pointer(self.logits)
            .pointer(self.parameters)
            .pointer(self.biases)
            .pointer(self.masks)
            .pointer(self.counts)
            .pointer(scratch.scores)
            .pointer(scratch.maxima)
            .pointer(scratch.logits_maxima)
            .pointer(scratch.parts)
            .int(self.vocab);
        let masses = Launch::new("sampling_masses", of_chunks, CHUNK_THREADS, 0)
            .pointer(self.logits)
            .pointer(self.parameters)
            .pointer(scratch.scores)
            .pointer(scratch.parts)
            .pointer(scratch.masses)
            .int(self.vocab);
        let choose = self
            .of_rows("sampling_choose")
            .pointer(self.logits)
            .pointer(self.parameters)
            .pointer(scratch.scores)
            .pointer(scratch.maxima)
            .pointer(scratch.parts)
            .pointer(scratch.masses)
            .pointer(self.counts)
            .pointer(self.chosen)
            .pointer(self.next)
            .int(self.vocab)
            .int(self.vocab.div_ceil(CHUNK));
        [scores, masses, choose]
    }

    /// The log-probabilities, after [`Sampling::launches`]; not needed in a step in which no row asks for them.
    pub fn logprobs_launch(&self) -> Launch {
        let scratch = self.scratch();
        self.of_rows("sampling_logprobs")
            .pointer(self.logits)
            .pointer(self.parameters)
            .pointer(scratch.logits_maxima)
            .pointer(scratch.parts)
            .pointer(scratch.masses)
            .pointer(self.chosen)
            .pointer(self.top)
            .int(self.vocab)
            .int(self.vocab.div_ceil(CHUNK))
    }

    fn of_rows(&self, kernel: &'static str) -> Launch {
        let bins = BINS * ROW_THREADS * size_of::<f64>();
        let list = LISTED * 3 * size_of::<u32>();
        Launch::new(kernel, [self.rows as u32, 1, 1], ROW_THREADS as u32, (bins + list) as u32)
    }

    fn scratch(&self) -> Scratch {
        Scratch::new(self.scratch, self.rows, self.vocab)
    }
}

/// What is where in the scratch memory.
struct Scratch {
    /// f32 `(rows, vocab)`, of rows with edits
    scores: DevicePointer,
    /// f32 `(rows, groups of 32 ids)`
    maxima: DevicePointer,
    /// The same of the logits.
    logits_maxima: DevicePointer,
    /// `(rows, chunks)`
    parts: DevicePointer,
    /// `(rows, chunks)`
    masses: DevicePointer,
    /// Bytes of all.
    end: usize,
}

impl Scratch {
    fn new(begin: DevicePointer, rows: usize, vocab: usize) -> Self {
        let mut end = 0;
        let mut next = |bytes: usize| {
            let at = begin.plus(end);
            end += bytes.next_multiple_of(ALIGNMENT);
            at
        };
        let chunks = vocab.div_ceil(CHUNK);
        let scores = next(rows * vocab * 4);
        let maxima = next(rows * vocab.div_ceil(32) * 4);
        let logits_maxima = next(rows * vocab.div_ceil(32) * 4);
        let parts = next(rows * chunks * PART_BYTES);
        let masses = next(rows * chunks * MASS_BYTES);
        Self { scores, maxima, logits_maxima, parts, masses, end }
    }
}

/// A sequence whose tokens are to be counted afresh: a new one, or one that begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountJob {
    /// Row of the counts; `None` for padding.
    pub counts: Option<u32>,
    /// Index of its first token among the ids.
    pub begin: u32,
    /// Length of its prompt.
    pub n_prompt: u32,
    /// Tokens after the prompt.
    pub n_output: u32,
}

impl CountJob {
    /// Size of a job on the device.
    pub const BYTES: usize = 16;

    /// The job as `cuda.cu` reads it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let words = [self.counts.unwrap_or(NONE), self.begin, self.n_prompt, self.n_output];
        words.iter().rev().fold(0u128, |all, &word| all << 32 | u128::from(word)).to_le_bytes()
    }
}

/// Operands of the counting of tokens, for penalties.
#[derive(Clone, Copy, Debug)]
pub struct Counting {
    /// `(n_jobs)` of [`CountJob::to_bytes`]
    pub jobs: DevicePointer,
    /// u32 tokens of all sequences
    pub ids: DevicePointer,
    /// See [`Sampling::counts`].
    pub counts: DevicePointer,
    /// Above 0.
    pub n_jobs: usize,
    /// Of the counts.
    pub vocab: usize,
}

impl Counting {
    /// One block per sequence.
    pub fn launch(&self) -> Launch {
        Launch::new("sampling_count", [self.n_jobs as u32, 1, 1], ROW_THREADS as u32, 0)
            .pointer(self.jobs)
            .pointer(self.ids)
            .pointer(self.counts)
            .int(self.vocab)
    }
}
