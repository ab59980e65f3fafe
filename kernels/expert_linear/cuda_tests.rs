//! The CUDA kernel, emulated, against the reference.

use super::cuda::{ExpertEpilogue, ExpertGroups, ExpertLinear, ExpertSizes};
use super::reference;
use crate::gpu::Float16;
use crate::route_experts::cuda::GroupByExpert;
use crate::testing::{OnDevice, assert_rounded, assert_same_bits, each_device, random};

const NUM_EXPERTS: usize = 3;
/// Experts per token.
const K: usize = 2;
const GUARD: usize = 16;

#[derive(Clone, Copy)]
struct Case {
    depth: usize,
    width: usize,
    epilogue: ExpertEpilogue,
    dtype: Float16,
    magnitude: f32,
    /// K if `x` has a row per token.
    rows_per_source: usize,
}

/// Tokens in turn go to 0 and 1, 1 and 2, 2 and 0.
fn in_turn(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).flat_map(|token| [token % 3, (token + 1) % 3]).collect()
}

impl Case {
    fn features(&self) -> usize {
        match self.epilogue {
            ExpertEpilogue::Plain => self.width,
            ExpertEpilogue::SwiGlu => 2 * self.width,
        }
    }

    /// Values as the device has them.
    fn rounded(&self, device: &OnDevice, values: &[f32]) -> Vec<f32> {
        device.read(device.rounded(self.dtype, values), self.dtype, values.len())
    }

    /// Row `i` is the same, however many there are.
    fn x(&self, rows: usize) -> Vec<f32> {
        (0..rows as u64).flat_map(|row| random(row, self.depth, self.magnitude)).collect()
    }

    fn weights(&self) -> Vec<f32> {
        random(1 << 32, NUM_EXPERTS * self.features() * self.depth, 1.0 / (self.depth as f32).sqrt())
    }

    /// `(experts.len(), width)`, and NaN where an assignment has no expert.
    fn run(&self, device: &OnDevice, experts: &[u32]) -> Vec<f32> {
        let assignments = experts.len();
        let len = assignments * self.width;
        let mut weights = self.weights();
        for (expert, weights) in weights.chunks_mut(self.features() * self.depth).enumerate() {
            if !experts.contains(&(expert as u32)) {
                weights.fill(f32::NAN); // not to be read
            }
        }
        let groups = ExpertGroups {
            rows: device.u32(&vec![u32::MAX; assignments]),
            offsets: device.u32(&[u32::MAX; NUM_EXPERTS + 1]),
            num_experts: NUM_EXPERTS,
            tokens: assignments / K,
            experts_per_token: K,
        };
        let grouping = GroupByExpert {
            experts: device.u32(experts),
            rows: groups.rows,
            offsets: groups.offsets,
            assignments,
            num_experts: NUM_EXPERTS,
        };
        device.run(&grouping.launch());
        let Self { depth, width, epilogue, dtype, rows_per_source, .. } = *self;
        let x = device.rounded(dtype, &self.x(assignments / rows_per_source));
        let (weights, out) = (device.rounded(dtype, &weights), device.poisoned(dtype, len + GUARD));
        let sizes = ExpertSizes { depth, width, rows_per_source };
        device.run(&ExpertLinear { x, weights, groups, out, sizes, epilogue, dtype }.launch());
        let mut found = device.read(out, dtype, len + GUARD);
        assert!(found.split_off(len).iter().all(|value| value.is_nan()), "written past the end of {depth} x {width}");
        found
    }

    fn expected(&self, device: &OnDevice, experts: &[u32]) -> Vec<Vec<f64>> {
        let Self { depth, width, rows_per_source, .. } = *self;
        let x = self.rounded(device, &self.x(experts.len() / rows_per_source));
        let weights = self.rounded(device, &self.weights());
        let sizes = reference::Sizes { depth, width, rows_per_source };
        match self.epilogue {
            ExpertEpilogue::Plain => reference::expert_linear(&x, &weights, experts, sizes),
            ExpertEpilogue::SwiGlu => reference::expert_swiglu(&x, &weights, experts, sizes),
        }
    }

    fn check(&self, device: &OnDevice, experts: &[u32]) {
        let shape = [experts.len(), self.depth, self.width];
        let found = self.run(device, experts);
        let (mut of_experts, mut expected) = (Vec::new(), Vec::new());
        for (found, row) in found.chunks_exact(self.width).zip(self.expected(device, experts)) {
            assert!(!row.is_empty() || found.iter().all(|value| value.is_nan()), "a row without expert was written");
            of_experts.extend(&found[..row.len()]);
            expected.extend(row);
        }
        assert_rounded("expert_linear", &shape, &of_experts, &expected, (self.dtype, 1.0));
    }
}

const PLAIN: Case = Case {
    depth: 72,
    width: 40,
    epilogue: ExpertEpilogue::Plain,
    dtype: Float16::Bf16,
    magnitude: 1.0,
    rows_per_source: 1,
};
const SWIGLU: Case = Case { epilogue: ExpertEpilogue::SwiGlu, rows_per_source: K, ..PLAIN };

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for case in [PLAIN, SWIGLU] {
            for (depth, width) in [(8, 8), (64, 72), (72, 64), (1032, 136)] {
                for (dtype, magnitude) in [(Float16::Bf16, 1.0), (Float16::F16, 1e-2), (Float16::Bf16, 1e15)] {
                    Case { depth, width, dtype, magnitude, ..case }.check(device, &in_turn(3));
                }
            }
        }
    });
}

/// Every tile, with one row more than the tile before has room for.
#[test]
fn agrees_with_the_reference_for_many_rows() {
    each_device(|device| {
        for tokens in [1, 9, 17, 33, 65, 97] {
            PLAIN.check(device, &in_turn(tokens));
            Case { dtype: Float16::F16, ..SWIGLU }.check(device, &in_turn(tokens));
        }
    });
}

#[test]
fn an_expert_may_have_all_rows_and_others_none() {
    each_device(|device| {
        for case in [PLAIN, SWIGLU] {
            for tokens in [1, 8, 70, 140] {
                case.check(device, &[2, 0].repeat(tokens));
            }
        }
    });
}

#[test]
fn padded_rows_are_left_alone() {
    each_device(|device| {
        let mut experts = in_turn(5);
        experts[2..4].fill(u32::MAX);
        experts.extend([u32::MAX; 8]);
        PLAIN.check(device, &experts);
        SWIGLU.check(device, &[u32::MAX; 4]);
    });
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    each_device(|device| {
        for case in [PLAIN, SWIGLU, Case { depth: 264, ..PLAIN }] {
            let first_token = K * case.width;
            let alone = case.run(device, &[1, 2]);
            for tokens in [7, 16, 32, 64, 65, 100] {
                let mut experts = vec![1, 2];
                experts.extend(&in_turn(tokens)[2..]);
                let found = case.run(device, &experts);
                assert_same_bits("among others", &[tokens], &found[..first_token], &alone);
                experts[2..].fill(u32::MAX);
                let found = case.run(device, &experts);
                assert_same_bits("with padding", &[tokens], &found[..first_token], &alone);
            }
        }
    });
}

#[test]
#[should_panic(expected = "rows of 12 elements are not whole vectors of 8")]
fn refuses_rows_that_are_not_whole_vectors() {
    each_device(|device| drop(Case { depth: 12, ..PLAIN }.run(device, &[0, 1])));
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    PLAIN.check(device, &in_turn(3));
    SWIGLU.check(device, &in_turn(3));
}
