//! A batch as a device wants it: generated tokens first, then those of prompts, all integers in one piece.

use tramontane_kernels::KvGeometry;
use tramontane_kernels::paged_attention::cuda::{Chunk, PagedPrefill};
use tramontane_kernels::sampling::cuda::Row;

use crate::types::{Batch, BatchSequence};

/// Tokens and slots of padded rows.
const NONE: u32 = u32::MAX;
/// Words of the parameters of a choice.
const ROW_WORDS: usize = Row::BYTES / 4;
/// Words that a list begins at a multiple of: 16 bytes.
const ALIGNMENT: usize = 4;
/// Up to as many rows the numbers of rows that decode steps are padded to are listed; beyond, they are multiples of it.
const LARGEST_LISTED: usize = 64;
const LISTED_ROWS: [usize; 10] = [1, 2, 4, 8, 16, 24, 32, 40, 48, LARGEST_LISTED];

/// All that the launches of a step depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Rows of generated tokens, padded in a plain decode step.
    pub(super) generated: usize,
    /// Rows of prompts.
    pub(super) prompt: usize,
    /// Prompts.
    pub(super) chunks: usize,
    /// Tiles of the prompts' attention.
    pub(super) tiles: usize,
    /// Blocks of the longest sequence, rounded up to a power of two.
    pub(super) table_stride: usize,
    /// Rows whose logits are wanted, or that are pooled, unless all are.
    pub(super) selected: Option<Selected>,
    /// Who chooses tokens.
    pub(super) choice: Choice,
}

/// Who chooses the tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Choice {
    /// The host.
    Host,
    /// The device, unless a row has no choice.
    Device,
    /// The same, with log-probabilities.
    DeviceWithLogprobs,
}

/// Numbers of rows whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selected {
    pub(super) generated: usize,
    pub(super) prompt: usize,
}

/// Where each list begins among the words of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) ids: usize,
    pub(super) positions: usize,
    pub(super) slots: usize,
    /// `(generated)`: each row is a sequence of its own, which ends with its token.
    pub(super) generated_contexts: usize,
    /// `(generated, table_stride)`
    pub(super) generated_tables: usize,
    /// `(chunks)`
    pub(super) chunk_contexts: usize,
    /// `(chunks)`: first row among those of prompts.
    pub(super) chunk_starts: usize,
    /// `(chunks)`
    pub(super) chunk_lens: usize,
    /// `(chunks, table_stride)`
    pub(super) chunk_tables: usize,
    /// `(tiles, 2)`
    pub(super) tiles: usize,
    /// Rows whose logits are wanted, those of generated tokens first.
    pub(super) selected: usize,
    /// Parameters of the choice for each of them, if it is the device's.
    pub(super) choices: usize,
    /// Words in all.
    pub(super) len: usize,
}

/// The integers of one step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) shape: Shape,
    pub(super) words: Vec<u32>,
    /// Place of each of the batch's output rows, then of its pooled rows, among the device's outputs.
    places: Vec<usize>,
    /// How many of them are output rows.
    n_outputs: usize,
}

impl Shape {
    /// True for a step of generated tokens alone, each of whose logits is wanted: the steps that recur.
    pub(super) fn is_plain_decode(&self) -> bool {
        self.prompt == 0 && self.selected.is_none()
    }

    pub(super) fn rows(&self) -> usize {
        self.generated + self.prompt
    }

    /// Rows whose logits are computed, or that are pooled.
    pub(super) fn outputs(&self) -> usize {
        self.selected.map_or(self.rows(), |selected| selected.generated + selected.prompt)
    }

    pub(super) fn layout(&self) -> Layout {
        let mut len = 0;
        let mut next = |words: usize| {
            let begin = len;
            len += words.next_multiple_of(ALIGNMENT);
            begin
        };
        let rows = self.rows();
        Layout {
            ids: next(rows),
            positions: next(rows),
            slots: next(rows),
            generated_contexts: next(self.generated),
            generated_tables: next(self.generated * self.table_stride),
            chunk_contexts: next(self.chunks),
            chunk_starts: next(self.chunks),
            chunk_lens: next(self.chunks),
            chunk_tables: next(self.chunks * self.table_stride),
            tiles: next(2 * self.tiles),
            selected: next(self.outputs()),
            choices: match self.choice {
                Choice::Host => next(0),
                Choice::Device | Choice::DeviceWithLogprobs => next(self.outputs() * ROW_WORDS),
            },
            len,
        }
    }
}

/// A sequence's query tokens that were generated, and those of its prompt.
struct Split<'a> {
    sequence: &'a BatchSequence,
    prompt_len: usize,
}

impl Step {
    /// Arranges a batch that has been checked. `group` is query heads per KV head.
    pub(super) fn new(batch: &Batch, geometry: KvGeometry, group: usize, choice: Choice) -> Self {
        let splits: Vec<Split<'_>> = batch
            .sequences
            .iter()
            .map(|sequence| Split { sequence, prompt_len: sequence.query_len - sequence.generated })
            .collect();
        // Rows of the batch in the device's order.
        let generated = splits.iter().flat_map(|split| split.generated_rows()).map(|(row, _)| row);
        let prompt = splits.iter().flat_map(|split| split.prompt_rows());
        let order: Vec<usize> = generated.chain(prompt).collect();
        let chunks: Vec<Chunk> = splits
            .iter()
            .filter(|split| split.prompt_len > 0)
            .enumerate()
            .map(|(sequence, split)| split.chunk(sequence))
            .collect();
        let tiles = PagedPrefill::tiles(&chunks, group);
        let n_generated = batch.sequences.iter().map(|sequence| sequence.generated).sum();
        let longest = batch.sequences.iter().map(|sequence| sequence.context_len).max().unwrap_or(1);
        let (selected_rows, places) = select(batch, &order);
        let selected = (selected_rows.len() < order.len()).then(|| {
            let generated = selected_rows.iter().filter(|&&row| (row as usize) < n_generated).count();
            Selected { generated, prompt: selected_rows.len() - generated }
        });
        let mut shape = Shape {
            generated: n_generated,
            prompt: batch.n_tokens() - n_generated,
            chunks: chunks.len(),
            tiles: tiles.len(),
            table_stride: longest.div_ceil(geometry.block_size).next_power_of_two(),
            selected,
            choice,
        };
        if shape.is_plain_decode() {
            shape.generated = padded_rows(n_generated);
        }

        let layout = shape.layout();
        let mut words = vec![0; layout.len];
        let padding = n_generated..shape.generated;
        let list = |words: &mut [u32], begin: usize, of: &[u32]| {
            for (to, &row) in words[begin..].iter_mut().zip(&order) {
                *to = of[row];
            }
        };
        list(&mut words, layout.ids, &batch.token_ids);
        list(&mut words, layout.positions, &batch.positions);
        list(&mut words, layout.slots, &batch.slots);
        for row in padding {
            words[layout.ids + row] = NONE;
            words[layout.slots + row] = NONE;
        }
        let table = |words: &mut [u32], begin: usize, index: usize, sequence: &BatchSequence| {
            let begin = begin + index * shape.table_stride;
            words[begin..begin + sequence.block_table.len()].copy_from_slice(&sequence.block_table);
        };
        let all_generated = splits.iter().flat_map(|split| split.generated_rows().map(move |(_, len)| (len, split)));
        for (row, (context_len, split)) in all_generated.enumerate() {
            words[layout.generated_contexts + row] = context_len as u32;
            table(&mut words, layout.generated_tables, row, split.sequence);
        }
        let mut start = 0;
        for (index, split) in splits.iter().filter(|split| split.prompt_len > 0).enumerate() {
            words[layout.chunk_contexts + index] = chunks[index].context_len as u32;
            words[layout.chunk_starts + index] = start;
            words[layout.chunk_lens + index] = split.prompt_len as u32;
            start += split.prompt_len as u32;
            table(&mut words, layout.chunk_tables, index, split.sequence);
        }
        words[layout.tiles..][..2 * tiles.len()].copy_from_slice(tiles.as_flattened());
        words[layout.selected..][..selected_rows.len()].copy_from_slice(&selected_rows);
        Self { shape, words, places, n_outputs: batch.output_rows.len() }
    }

    /// Puts the parameters of choices, given in the order of the batch's `output_rows`, where the device looks for them.
    pub(super) fn set_choices(&mut self, rows: &[[u8; Row::BYTES]]) {
        let begin = self.shape.layout().choices;
        for (row, &place) in rows.iter().zip(&self.places) {
            let words = row.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
            let to = &mut self.words[begin + place * ROW_WORDS..][..ROW_WORDS];
            to.iter_mut().zip(words).for_each(|(to, word)| *to = word);
        }
    }

    /// Place of each of the batch's output rows, then of its pooled rows, among the device's outputs.
    pub(super) fn places(&self) -> &[usize] {
        &self.places
    }

    /// Of its output rows.
    pub(super) fn output_places(&self) -> &[usize] {
        &self.places[..self.n_outputs]
    }

    /// Of its pooled rows.
    pub(super) fn pooled_places(&self) -> &[usize] {
        &self.places[self.n_outputs..]
    }
}

impl Split<'_> {
    /// Rows of the batch, each with the length of its sequence at that token.
    fn generated_rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let BatchSequence { query_start, query_len, context_len, .. } = *self.sequence;
        (self.prompt_len..query_len).map(move |i| (query_start + i, context_len - query_len + i + 1))
    }

    fn prompt_rows(&self) -> impl Iterator<Item = usize> {
        let begin = self.sequence.query_start;
        begin..begin + self.prompt_len
    }

    fn chunk(&self, sequence: usize) -> Chunk {
        let context_len = self.sequence.context_len - self.sequence.generated;
        Chunk { sequence, query_len: self.prompt_len, context_len }
    }
}

/// The device's rows of which more than keys and values is wanted, in ascending order, and the place among them of each
/// of the batch's `output_rows` and then `pooled_rows`. `order` has the batch's row of each of the device's.
fn select(batch: &Batch, order: &[usize]) -> (Vec<u32>, Vec<usize>) {
    let mut row_of = vec![0; order.len()];
    for (row, &of_batch) in order.iter().enumerate() {
        row_of[of_batch] = row as u32;
    }
    let wanted: Vec<u32> =
        batch.output_rows.iter().chain(&batch.pooled_rows).map(|&row| row_of[row as usize]).collect();
    let mut sorted = wanted.clone();
    sorted.sort_unstable();
    let mut place_of = vec![0; order.len()];
    for (place, &row) in sorted.iter().enumerate() {
        place_of[row as usize] = place;
    }
    let places = wanted.iter().map(|&row| place_of[row as usize]).collect();
    (sorted, places)
}

/// The number of rows that a decode step of `rows` rows is padded to, so that few graphs serve all steps.
pub(super) fn padded_rows(rows: usize) -> usize {
    let listed = LISTED_ROWS.into_iter().find(|&listed| listed >= rows);
    listed.unwrap_or_else(|| rows.next_multiple_of(LARGEST_LISTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: KvGeometry = KvGeometry { num_blocks: 16, block_size: 4 };

    fn sequence(query_start: usize, query_len: usize, context_len: usize, generated: usize) -> BatchSequence {
        let block_table = (0..context_len.div_ceil(4) as u32).collect();
        BatchSequence { query_start, query_len, context_len, block_table, generated }
    }

    fn batch(sequences: Vec<BatchSequence>, output_rows: Vec<u32>) -> Batch {
        let n_tokens = sequences.iter().map(|sequence| sequence.query_len).sum::<usize>() as u32;
        let positions = sequences.iter().flat_map(|s| s.context_len - s.query_len..s.context_len);
        Batch {
            positions: positions.map(|position| position as u32).collect(),
            token_ids: (100..100 + n_tokens).collect(),
            slots: (0..n_tokens).collect(),
            sequences,
            output_rows,
            pooled_rows: Vec::new(),
        }
    }

    #[test]
    fn generated_tokens_come_first() {
        // A prompt's chunk, a decode step, and a sequence that begins again within its prompt.
        let sequences = vec![sequence(0, 3, 3, 0), sequence(3, 1, 9, 1), sequence(4, 5, 6, 2)];
        let step = Step::new(&batch(sequences, vec![2, 3, 8]), GEOMETRY, 4, Choice::Host);
        let Step { shape, words, places, .. } = &step;
        let selected = Some(Selected { generated: 2, prompt: 1 });
        let tiles = shape.tiles;
        assert_eq!(
            *shape,
            Shape { generated: 3, prompt: 6, chunks: 2, tiles, table_stride: 4, selected, choice: Choice::Host }
        );
        let layout = shape.layout();
        assert_eq!(words[layout.ids..][..9], [103, 107, 108, 100, 101, 102, 104, 105, 106]);
        assert_eq!(words[layout.positions..][..9], [8, 4, 5, 0, 1, 2, 1, 2, 3]);
        assert_eq!(words[layout.generated_contexts..][..3], [9, 5, 6]);
        assert_eq!(words[layout.generated_tables..][..12], [0, 1, 2, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
        assert_eq!(words[layout.chunk_contexts..][..2], [3, 4]);
        assert_eq!(words[layout.chunk_starts..][..2], [0, 3]);
        assert_eq!(words[layout.chunk_lens..][..2], [3, 3]);
        assert_eq!(words[layout.selected..][..3], [0, 2, 5]);
        assert_eq!(*places, [2, 0, 1]);
    }

    #[test]
    fn decode_steps_are_padded() {
        let sequences = (0..3).map(|i| sequence(i, 1, 5 + i, 1)).collect();
        let step = Step::new(&batch(sequences, vec![0, 1, 2]), GEOMETRY, 4, Choice::Host);
        assert!(step.shape.is_plain_decode());
        assert_eq!(step.shape.generated, 4);
        let layout = step.shape.layout();
        assert_eq!(step.words[layout.ids..][..4], [100, 101, 102, NONE]);
        assert_eq!(step.words[layout.slots..][..4], [0, 1, 2, NONE]);
        assert_eq!(step.words[layout.generated_contexts..][..4], [5, 6, 7, 0]);
        assert_eq!([1, 3, 64, 65, 200].map(padded_rows), [1, 4, 64, 128, 256]);
    }
}
