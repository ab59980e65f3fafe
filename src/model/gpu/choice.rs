//! Choices of tokens as the kernels of `sampling` read them: rows of parameters, biases, masks, and which counts of
//! tokens a row is penalised by.
//!
//! The main type is [`Chooser`]. Invariant: the counts of a sequence hold what it had before the choice at hand, or are
//! made anew in the same step.

use std::collections::HashMap;

use tramontane_kernels::gpu::{Device, DeviceError, DevicePointer, Launch};
use tramontane_kernels::sampling::cuda::{Bias, CountJob, Counting, Edits, MAX_TOP, MAX_VOCAB, Outcome, Row, Sampling};

use super::GpuLimits;
use super::arena::{Arena, padded};
use super::step::Choice;
use crate::model::ModelError;
use crate::types::{Penalties, RowResult, TokenChoice, TokenLogprobs};

/// Most biases of a row.
const MAX_BIASES: usize = 1024;
/// Bytes that the kernels write for a row: the outcome, and the most likely ids.
const OUTCOME_BYTES: usize = Outcome::BYTES;
const TOP_BYTES: usize = MAX_TOP * 8;

/// The memory of choices.
#[derive(Debug)]
pub(super) struct Chooser {
    memory: Memory,
    vocab_size: usize,
    /// Sequences with penalties.
    counted: HashMap<u64, Counted>,
    free_counts: Vec<u32>,
}

#[derive(Debug)]
struct Memory {
    /// [`Bias`] `(rows, MAX_BIASES)`
    biases: DevicePointer,
    /// u32 `(rows, vocab_size / 32 rounded up)`
    masks: DevicePointer,
    /// u32 `(max_sequences, vocab_size)`
    counts: DevicePointer,
    /// One [`CountJob`]
    job: DevicePointer,
    /// u32 `(max_positions)`: tokens to count
    ids: DevicePointer,
    scratch: DevicePointer,
    /// [`Outcome`] `(rows)`
    chosen: DevicePointer,
    /// `(rows, MAX_TOP)`
    top: DevicePointer,
    /// u32 `(rows)`
    next: DevicePointer,
}

/// Sizes of that memory in bytes, in the same order.
struct Sizes {
    parts: [usize; 9],
}

/// A sequence's row of the counts, and how many tokens are counted in it.
#[derive(Clone, Copy, Debug)]
struct Counted {
    row: u32,
    tokens: usize,
}

/// Rows of parameters and what has to be uploaded beside them.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    /// Of [`Row::BYTES`], one per output row of the batch; zeros where there is no choice.
    pub(super) rows: Vec<[u8; Row::BYTES]>,
    biases: Vec<u8>,
    masks: Vec<u32>,
    /// Sequences to count: the row, and the lengths of prompt and output with their ids.
    jobs: Vec<(CountJob, Vec<u32>)>,
}

impl Chooser {
    pub(super) fn new(
        device: &impl Device,
        limits: GpuLimits,
        vocab_size: usize,
        max_positions: usize,
    ) -> Result<Self, DeviceError> {
        let [biases, masks, counts, job, ids, scratch, chosen, top, next] =
            Sizes::new(limits, vocab_size, max_positions).parts.map(|bytes| device.allocate(bytes));
        Ok(Self {
            memory: Memory {
                biases: biases?,
                masks: masks?,
                counts: counts?,
                job: job?,
                ids: ids?,
                scratch: scratch?,
                chosen: chosen?,
                top: top?,
                next: next?,
            },
            vocab_size,
            counted: HashMap::new(),
            free_counts: (0..limits.max_sequences as u32).collect(),
        })
    }

    /// Where tokens that nobody has read yet are.
    pub(super) fn next(&self) -> DevicePointer {
        self.memory.next
    }

    pub(super) fn can_choose(&self, choice: &TokenChoice<'_>) -> bool {
        self.vocab_size <= MAX_VOCAB
            && choice.biases.len() <= MAX_BIASES
            && choice.logprobs.is_none_or(|n_top| n_top <= MAX_TOP)
    }

    /// Gives the sequence's counts to others.
    pub(super) fn forget(&mut self, sequence: u64) {
        if let Some(counted) = self.counted.remove(&sequence) {
            self.free_counts.push(counted.row);
        }
    }

    /// Lays the choices of a step out, one per output row of the batch.
    pub(super) fn arrange(&mut self, choices: &[Option<TokenChoice<'_>>]) -> Result<Arranged, ModelError> {
        let mut arranged = Arranged::default();
        for (index, choice) in choices.iter().enumerate() {
            let row = match choice {
                Some(choice) => self.row(index, choice, &mut arranged)?.to_bytes(),
                None => Row::padding(),
            };
            arranged.rows.push(row);
        }
        Ok(arranged)
    }

    /// Uploads biases and masks, and counts the tokens of sequences that are new.
    pub(super) fn prepare(&self, device: &impl Device, arranged: &Arranged) -> Result<(), DeviceError> {
        let Memory { biases, masks, counts, job, ids, .. } = self.memory;
        // SAFETY: each has memory for as many as there are output rows, ids for as many as there are positions.
        unsafe {
            if !arranged.biases.is_empty() {
                device.upload(biases, &arranged.biases)?;
            }
            if !arranged.masks.is_empty() {
                device.upload(masks, bytemuck::cast_slice(&arranged.masks))?;
            }
            for (count_job, tokens) in &arranged.jobs {
                device.upload(job, &count_job.to_bytes())?;
                device.upload(ids, bytemuck::cast_slice(tokens))?;
                device.launch(&Counting { jobs: job, ids, counts, n_jobs: 1, vocab: self.vocab_size }.launch())?;
            }
        }
        Ok(())
    }

    /// The choice for `rows` output rows from `first` on, whose logits are the arena's first.
    pub(super) fn launches(
        &self,
        arena: &Arena,
        parameters: DevicePointer,
        (first, rows): (usize, usize),
        choice: Choice,
    ) -> Vec<Launch> {
        if choice == Choice::Host {
            return Vec::new();
        }
        let Memory { biases, masks, counts, scratch, chosen, top, next, .. } = self.memory;
        let sampling = Sampling {
            logits: arena.logits,
            parameters: parameters.plus(first * Row::BYTES),
            biases,
            masks,
            counts,
            scratch,
            chosen: chosen.plus(first * OUTCOME_BYTES),
            top: top.plus(first * TOP_BYTES),
            next,
            rows,
            vocab: self.vocab_size,
        };
        let mut launches = sampling.launches().to_vec();
        if choice == Choice::DeviceWithLogprobs {
            launches.push(sampling.logprobs_launch());
        }
        launches
    }

    /// Begins to read the outcomes of `rows` rows, if there are any.
    pub(super) fn begin_readback<D: Device>(
        &self,
        device: &D,
        rows: usize,
        choice: Choice,
    ) -> Result<Option<Outcomes<D>>, DeviceError> {
        if choice == Choice::Host {
            return Ok(None);
        }
        // SAFETY: there is memory for the outcomes of as many rows as a step can have.
        unsafe {
            let chosen = device.begin_readback(self.memory.chosen, rows * OUTCOME_BYTES)?;
            let top = match choice {
                Choice::DeviceWithLogprobs => Some(device.begin_readback(self.memory.top, rows * TOP_BYTES)?),
                Choice::Host | Choice::Device => None,
            };
            Ok(Some(Outcomes { chosen, top }))
        }
    }

    fn row(&mut self, index: usize, choice: &TokenChoice<'_>, arranged: &mut Arranged) -> Result<Row, ModelError> {
        let mut biases: Vec<Bias> = choice.biases.iter().map(|&(id, bias)| Bias { id, bias }).collect();
        biases.sort_by_key(|bias| bias.id); // those of one id stay in their order
        let begin = arranged.biases.len() / Bias::BYTES;
        arranged.biases.extend(biases.iter().flat_map(|bias| bias.to_bytes()));
        let mask = choice.allowed_token_ids.map(|allowed| {
            let words = self.vocab_size.div_ceil(32);
            let begin = arranged.masks.len();
            arranged.masks.resize(begin + words, 0);
            for &id in allowed {
                arranged.masks[begin + id as usize / 32] |= 1 << (id % 32);
            }
            (begin / words) as u32
        });
        let mut edits = Edits { mask, biases: (begin as u32, (begin + biases.len()) as u32), ..Edits::default() };
        if let Some(penalties) = &choice.penalties {
            edits.counts = Some(self.counts_of(penalties, arranged)?);
            edits.repetition_penalty = penalties.repetition_penalty;
            edits.frequency_penalty = penalties.frequency_penalty;
            edits.presence_penalty = penalties.presence_penalty;
        }
        Ok(Row {
            uniform: choice.uniform,
            temperature: choice.temperature,
            top_k: choice.top_k,
            top_p: choice.top_p,
            min_p: choice.min_p,
            edits,
            next: Some(index as u32),
            logprobs: choice.logprobs.map(|n_top| n_top as u32),
        })
    }

    /// The sequence's row of the counts, which the choice will add its token to.
    fn counts_of(&mut self, penalties: &Penalties<'_>, arranged: &mut Arranged) -> Result<u32, ModelError> {
        let Penalties { sequence, prompt_ids, output_ids, num_unread, .. } = *penalties;
        let before = prompt_ids.len() + output_ids.len() + num_unread;
        let known = self.counted.get(&sequence).copied();
        let counts_anew = known.is_none_or(|counted| counted.tokens != before);
        if counts_anew && num_unread > 0 {
            return Err(ModelError::Penalties { reason: "a token is neither counted nor known" });
        }
        let row = match known {
            Some(Counted { row, .. }) => row,
            None => {
                self.free_counts.pop().ok_or(ModelError::Penalties { reason: "more sequences have them than run" })?
            }
        };
        if counts_anew {
            let job = CountJob {
                counts: Some(row),
                begin: 0,
                n_prompt: prompt_ids.len() as u32,
                n_output: output_ids.len() as u32,
            };
            arranged.jobs.push((job, [prompt_ids, output_ids].concat()));
        }
        self.counted.insert(sequence, Counted { row, tokens: before + 1 });
        Ok(row)
    }
}

/// Outcomes on their way to the host.
#[derive(Debug)]
pub(super) struct Outcomes<D: Device> {
    chosen: D::Readback,
    top: Option<D::Readback>,
}

impl<D: Device> Outcomes<D> {
    /// Waits for them. `logprobs` has, per row, whether log-probabilities were asked for, and how many.
    pub(super) fn read(self, device: &D, logprobs: &[Option<usize>]) -> Result<Vec<RowResult>, DeviceError> {
        let chosen = device.end_readback(self.chosen)?;
        let top = self.top.map(|top| device.end_readback(top)).transpose()?.unwrap_or_default();
        let outcomes = chosen.as_chunks::<OUTCOME_BYTES>().0.iter().map(|&bytes| Outcome::from_bytes(bytes));
        Ok(outcomes
            .zip(logprobs)
            .enumerate()
            .map(|(row, (outcome, &n_top))| result(outcome, n_top, &top, row))
            .collect())
    }
}

fn result(outcome: Outcome, n_top: Option<usize>, top: &[u8], row: usize) -> RowResult {
    match outcome {
        Outcome::NotFinite => RowResult::NotFinite,
        Outcome::NothingAllowed => RowResult::NothingAllowed,
        Outcome::Token { id, logprob } => {
            let logprobs = n_top.zip(logprob).map(|(n_top, (logprob, rank))| {
                let of_row = &top[row * TOP_BYTES..][..n_top * 8];
                TokenLogprobs {
                    logprob,
                    rank,
                    top: of_row.as_chunks::<8>().0.iter().map(|&pair| id_and_logprob(pair)).collect(),
                }
            });
            RowResult::Token { id, logprobs }
        }
    }
}

fn id_and_logprob(pair: [u8; 8]) -> (u32, f32) {
    let word = u64::from_le_bytes(pair);
    (word as u32, f32::from_bits((word >> 32) as u32))
}

/// Bytes that choices take on a device.
pub(super) fn bytes(limits: GpuLimits, vocab_size: usize, max_positions: usize) -> usize {
    Sizes::new(limits, vocab_size, max_positions).parts.into_iter().map(padded).sum()
}

impl Sizes {
    fn new(limits: GpuLimits, vocab_size: usize, max_positions: usize) -> Self {
        let rows = super::step::padded_rows(limits.max_tokens);
        // A choice is made once per sequence and step.
        let choices = limits.max_sequences;
        let vocab = vocab_size.min(MAX_VOCAB);
        let parts = [
            choices * MAX_BIASES * Bias::BYTES,
            choices * vocab_size.div_ceil(32) * 4,
            choices * vocab_size * 4,
            CountJob::BYTES,
            max_positions * 4,
            Sampling::scratch_bytes(Arena::LOGIT_ROWS.min(rows), vocab),
            rows * OUTCOME_BYTES,
            rows * TOP_BYTES,
            rows * 4,
        ];
        Self { parts }
    }
}
