//! The CUDA kernels, emulated, against the reference, against themselves with other rows, and fused against unfused.

use std::cell::Cell;

use super::cuda::{Epilogue, Family, Linear, NormedLinear, Workspace};
use super::reference;
use crate::gpu::{Capacity, DevicePointer, Float16, Launch};
use crate::rms_norm::cuda::RmsNorm;
use crate::swiglu::cuda::SwiGlu;
use crate::testing::{OnDevice, assert_close, assert_rounded, assert_same_bits, each_device, random, sum_tolerance};

/// Rows, in, out.
type Shape = (usize, usize, usize);

const DTYPES: [Float16; 2] = [Float16::Bf16, Float16::F16];
const EPILOGUES: [Epilogue; 4] = [Epilogue::Store, Epilogue::StoreF32, Epilogue::Add, Epilogue::SwiGlu];
/// Elements after the result that must stay as they are.
const GUARD: usize = 64;
/// What the residual holds before.
const RESIDUAL: f32 = 0.375;

/// A [`Family`] whose workspace is each launch's own.
#[derive(Clone, Copy, Debug)]
enum Way {
    Streamed,
    Tiled,
}

/// A product with its inputs on a device.
struct Case<'a> {
    device: &'a OnDevice,
    linear: Linear,
    /// As rounded.
    x: Vec<f32>,
    weight: Vec<f32>,
}

impl<'a> Case<'a> {
    fn new(device: &'a OnDevice, dtype: Float16, epilogue: Epilogue, shape: Shape, magnitude: f32) -> Self {
        let (rows, in_features, out_features) = shape;
        let weight_rows = if epilogue == Epilogue::SwiGlu { 2 * out_features } else { out_features };
        let x = device.rounded(dtype, &random(1, rows * in_features, magnitude));
        let weight = device.rounded(dtype, &random(2, weight_rows * in_features, 1.0));
        let out = DevicePointer::NULL;
        Self {
            device,
            linear: Linear { x, weight, out, rows, in_features, out_features, epilogue, dtype },
            x: device.read(x, dtype, rows * in_features),
            weight: device.read(weight, dtype, weight_rows * in_features),
        }
    }

    fn is_f32(&self) -> bool {
        matches!(self.linear.epilogue, Epilogue::StoreF32 | Epilogue::Add)
    }

    /// Runs the launch that `launch` makes of the product, and checks what lies behind the result.
    fn run(&self, launch: impl Fn(&Linear) -> Launch) -> Vec<f32> {
        let Linear { rows, out_features, epilogue, dtype, .. } = self.linear;
        let len = rows * out_features;
        let mut before = vec![if epilogue == Epilogue::Add { RESIDUAL } else { f32::NAN }; len];
        before.extend([f32::NAN; GUARD]);
        let out = if self.is_f32() { self.device.f32(&before) } else { self.device.rounded(dtype, &before) };
        self.device.run(&launch(&Linear { out, ..self.linear }));
        let mut found = match self.is_f32() {
            true => self.device.read_f32(out, len + GUARD),
            false => self.device.read(out, dtype, len + GUARD),
        };
        assert!(found.split_off(len).iter().all(|value| value.is_nan()), "{:?} wrote past its end", self.linear);
        found
    }

    /// Streams the weight, and checks what is left of the workspace.
    fn streamed(&self, launch: impl Fn(&Linear, Workspace) -> Launch) -> Vec<f32> {
        let [x, y, _] = launch(&self.linear, Workspace::NONE).grid;
        let blocks = (x * y) as usize;
        let len = blocks * Workspace::NONE.block_len(self.linear.rows);
        let workspace = Workspace {
            partials: self.device.poisoned_f32(len + GUARD),
            counters: self.device.u32(&vec![0; blocks + GUARD]),
            capacity: Capacity::HOPPER,
        };
        let found = self.run(|linear| launch(linear, workspace));
        let behind = self.device.read_f32(workspace.partials.plus(4 * len), GUARD);
        assert!(behind.iter().all(|value| value.is_nan()), "{:?} wrote past the workspace", self.linear);
        let counters = self.device.read_u32(workspace.counters, blocks + GUARD);
        assert!(counters.iter().all(|&count| count == 0), "{:?} leaves counters {counters:?}", self.linear);
        found
    }

    /// The product, one way or the other.
    fn take(&self, way: Way) -> Vec<f32> {
        match way {
            Way::Streamed => self.streamed(|linear, workspace| linear.launch(Family::Streamed(workspace))),
            Way::Tiled => self.run(|linear| linear.launch(Family::Tiled)),
        }
    }

    /// The product of some of the rows. What the reference needs stays behind.
    fn part(&self, first: usize, rows: usize) -> Self {
        let Self { device, linear, .. } = *self;
        let x = linear.x.plus(Float16::BYTES * first * linear.in_features);
        Self { device, linear: Linear { x, rows, ..linear }, x: Vec::new(), weight: Vec::new() }
    }

    fn expected(&self) -> Vec<f64> {
        let Linear { in_features, out_features, epilogue, .. } = self.linear;
        let product = reference::linear(&self.x, &self.weight, in_features);
        match epilogue {
            Epilogue::Store | Epilogue::StoreF32 => product,
            Epilogue::Add => product.iter().map(|value| value + f64::from(RESIDUAL)).collect(),
            Epilogue::SwiGlu => reference::swiglu(&product, out_features),
        }
    }

    fn check(&self) {
        [Way::Streamed, Way::Tiled].into_iter().for_each(|way| self.check_way(way));
    }

    fn check_way(&self, way: Way) {
        let Linear { rows, in_features, out_features, epilogue, dtype, .. } = self.linear;
        let (shape, expected) = ([rows, in_features, out_features], self.expected());
        let name = format!("linear {way:?} {dtype:?} {epilogue:?}");
        let found = self.take(way);
        match self.is_f32() {
            true => assert_close(&name, &shape, &found, &expected, sum_tolerance()),
            false => assert_rounded(&name, &shape, &found, &expected, (dtype, 1.0)),
        }
    }
}

/// Every kernel by its rows; one, odd and many columns; inputs below a step, off a unit, past the ring.
const FEW_ROWS: [Shape; 6] = [(1, 8, 1), (1, 4104, 17), (7, 40, 33), (8, 1032, 16), (9, 2112, 18), (16, 72, 40)];
const MANY_ROWS: [Shape; 12] = [
    (17, 520, 65),
    (31, 8, 7),
    (33, 1608, 17),
    (64, 104, 66),
    (65, 8, 1),
    (66, 168, 17),
    (70, 264, 130),
    (100, 1032, 19),
    (128, 72, 129),
    (129, 16, 3),
    (130, 40, 65),
    (200, 24, 35),
];

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for (i, shape) in FEW_ROWS.into_iter().enumerate() {
            for (j, epilogue) in EPILOGUES.into_iter().enumerate() {
                Case::new(device, DTYPES[(i + j) % 2], epilogue, shape, 0.25).check();
            }
        }
    });
}

/// Much work: every order of threads has an epilogue of its own for a shape.
#[test]
fn many_rows_agree_with_the_reference() {
    let turn = Cell::new(0);
    each_device(|device| {
        for (i, shape) in MANY_ROWS.into_iter().enumerate() {
            let epilogue = EPILOGUES[(i + turn.get()) % 4];
            Case::new(device, DTYPES[i / 2 % 2], epilogue, shape, 0.25).check();
        }
        turn.set(turn.get() + 1);
    });
}

/// More groups of outputs than blocks, and the tiles that only large outputs choose.
#[test]
fn large_outputs_agree_with_the_reference() {
    let device = OnDevice::forward();
    Case::new(&device, Float16::Bf16, Epilogue::Store, (1, 8, 8449), 1.0).check();
    Case::new(&device, Float16::Bf16, Epilogue::Store, (1, 1032, 4241), 1.0).check_way(Way::Streamed);
    Case::new(&device, Float16::F16, Epilogue::SwiGlu, (3, 8, 4227), 1.0).check();
    Case::new(&device, Float16::Bf16, Epilogue::StoreF32, (9, 8, 16897), 1.0).check();
    Case::new(&device, Float16::F16, Epilogue::Add, (129, 8, 8449), 1.0).check_way(Way::Tiled);
}

#[test]
fn survives_huge_and_tiny_values() {
    each_device(|device| {
        for rows in [1, 40, 65] {
            for magnitude in [1e15, 1e-20] {
                Case::new(device, Float16::Bf16, Epilogue::StoreF32, (rows, 136, 17), magnitude).check();
                Case::new(device, Float16::Bf16, Epilogue::SwiGlu, (rows, 136, 17), magnitude).check();
            }
        }
    });
}

/// Row by row, the same bits as alone, in every number of rows and wherever the row lies.
#[test]
fn other_rows_change_no_bit() {
    let device = OnDevice::forward();
    let (in_features, out_features) = (584, 19);
    let case = |(dtype, epilogue), rows| Case::new(&device, dtype, epilogue, (rows, in_features, out_features), 0.25);
    let all = case((Float16::Bf16, Epilogue::StoreF32), 64);
    let alone: Vec<f32> = (0..64).flat_map(|row| all.part(row, 1).take(Way::Streamed)).collect();
    for rows in 1..=64 {
        let first = 64 - rows;
        let found = all.part(first, rows).take(Way::Streamed);
        assert_same_bits("linear", &[rows], &found, &alone[first * out_features..]);
    }
    for kind in [(Float16::F16, Epilogue::Store), (Float16::Bf16, Epilogue::SwiGlu), (Float16::F16, Epilogue::Add)] {
        for way in [Way::Streamed, Way::Tiled] {
            let all = case(kind, 140);
            let of_last = all.part(139, 1).take(way);
            for rows in [2, 8, 9, 16, 17, 32, 33, 64, 65, 130, 140] {
                let found = all.part(140 - rows, rows).take(way);
                let name = format!("linear {way:?}");
                assert_same_bits(&name, &[rows], &found[(rows - 1) * out_features..], &of_last);
            }
        }
    }
}

/// A GPU whose blocks have the least shared memory of all that there are.
const SMALL: Capacity = Capacity { multiprocessors: 20, block_shared_bytes: 99 << 10 };

/// One that computes tiles of as many rows as Hopper, with less in flight.
const MEDIUM: Capacity = Capacity { multiprocessors: 108, block_shared_bytes: 163 << 10 };

/// However blocks share out a product of many rows, it has the bits of few rows.
#[test]
fn blocks_that_share_tiles_change_no_bit() {
    each_device(shared_tiles_have_the_bits_of_few_rows);
}

/// The last block to arrive adds up: with every order of blocks it is another.
fn shared_tiles_have_the_bits_of_few_rows(device: &OnDevice) {
    let kinds = [
        (17, 1032, 300, Float16::Bf16, Epilogue::StoreF32),
        (40, 584, 130, Float16::F16, Epilogue::Add),
        (129, 72, 70, Float16::Bf16, Epilogue::SwiGlu),
    ];
    for (rows, in_features, out_features, dtype, epilogue) in kinds {
        let all = Case::new(device, dtype, epilogue, (rows, in_features, out_features), 1.0);
        let few = |first| all.part(first, (rows - first).min(Linear::SKINNY_ROWS)).take(Way::Streamed);
        let expected: Vec<f32> = (0..rows).step_by(Linear::SKINNY_ROWS).flat_map(few).collect();
        for items in [1, 2, 3, 5] {
            let found = all.streamed(|linear, workspace| linear.wide(workspace, items));
            assert_same_bits(&format!("{items} items per block of"), &[rows, in_features], &found, &expected);
        }
        for capacity in [SMALL, MEDIUM] {
            let found =
                all.streamed(|linear, workspace| linear.launch(Family::Streamed(Workspace { capacity, ..workspace })));
            assert_same_bits(&format!("a GPU of {capacity:?}"), &[rows, in_features], &found, &expected);
        }
    }
}

#[test]
fn the_workspace_is_large_enough() {
    let null = DevicePointer::NULL;
    for capacity in [Capacity::HOPPER, MEDIUM, SMALL, Capacity { multiprocessors: 200, ..SMALL }] {
        let workspace = Workspace { capacity, ..Workspace::NONE };
        for rows in [17, 32, 33, 64, 65, 128, 129, 256, 1000, 20_000] {
            for out_features in [1, 128, 4096, 6144, 32_768, 131_072] {
                let (in_features, epilogue, dtype) = (8, Epilogue::SwiGlu, Float16::Bf16);
                let linear =
                    Linear { x: null, weight: null, out: null, rows, in_features, out_features, epilogue, dtype };
                let blocks = linear.launch(Family::Streamed(workspace)).grid.iter().product::<u32>() as usize;
                for most_rows in [rows, rows + 1, 2 * rows] {
                    assert!(blocks <= Workspace::counters_len(most_rows), "{linear:?}");
                    assert!(blocks * workspace.block_len(rows) <= Workspace::partials_len(most_rows), "{linear:?}");
                }
            }
        }
    }
}

/// 384 groups of 16 rows: two rounds of 264 blocks, or one of 396. Others stay at two blocks per multiprocessor.
#[test]
fn a_third_block_is_taken_where_it_saves_a_round() {
    let null = DevicePointer::NULL;
    let blocks = |rows, out_features| {
        let (in_features, epilogue, dtype) = (4096, Epilogue::Store, Float16::Bf16);
        let linear = Linear { x: null, weight: null, out: null, rows, in_features, out_features, epilogue, dtype };
        linear.launch(Family::Streamed(Workspace::NONE)).grid[0]
    };
    assert_eq!([4096, 6144, 28_672, 32_768].map(|out| blocks(1, out)), [256, 384, 264, 264]);
    assert_eq!([6144, 12_288].map(|out| blocks(16, out)), [192, 384]);
}

fn usual(linear: &Linear) -> Launch {
    match linear.rows {
        ..=Linear::SKINNY_ROWS => linear.launch(Family::Streamed(Workspace::NONE)),
        _ => linear.launch(Family::Tiled),
    }
}

/// Large and small tiles compute the same.
#[test]
fn the_choice_of_kernel_changes_no_bit() {
    let device = OnDevice::forward();
    let (rows, in_features, few, many) = (67, 24, 70, 16896);
    let all = Case::new(&device, Float16::Bf16, Epilogue::StoreF32, (rows, in_features, many), 1.0);
    let some = Case { linear: Linear { out_features: few, ..all.linear }, x: vec![], weight: vec![], device: &device };
    let names = [&all, &some].map(|case| usual(&case.linear).kernel);
    assert_ne!(names[0], names[1]);
    let expected: Vec<f32> = all.run(usual).chunks(many).flat_map(|row| row[..few].to_vec()).collect();
    assert_same_bits(&format!("{names:?}"), &[rows, in_features, few], &some.run(usual), &expected);
}

/// The norm in passing gives the bits of the norm alone, so a row does not depend on which of both a batch takes.
#[test]
fn fused_norm_has_the_bits_of_the_norm() {
    each_device(|device| {
        for (rows, in_features, out_features) in [(1, 8, 1), (1, 1032, 4241), (3, 1032, 35), (8, 264, 17)] {
            for dtype in DTYPES {
                for epilogue in [Epilogue::Store, Epilogue::StoreF32, Epilogue::SwiGlu] {
                    let case = Case::new(device, dtype, epilogue, (rows, in_features, out_features), 1.0);
                    let residual = device.f32(&random(3, rows * in_features, 20.0));
                    let norm_weight = device.f32(&random(4, in_features, 2.0));
                    let epsilon = 1e-5;
                    let fused = case.run(|linear| {
                        NormedLinear { linear: Linear { x: residual, ..*linear }, norm_weight, epsilon }.launch()
                    });
                    let (weight, columns) = (norm_weight, in_features);
                    let out = case.linear.x;
                    device.run(&RmsNorm { residual, weight, out, rows, columns, epsilon, dtype }.launch());
                    let unfused = case.run(usual);
                    assert_same_bits("linear_normed", &[rows, in_features, out_features], &fused, &unfused);
                }
            }
        }
    });
}

#[test]
fn fused_swiglu_agrees_with_the_operator() {
    each_device(|device| {
        for rows in [2, 70] {
            let (in_features, columns) = (136, 24);
            for dtype in DTYPES {
                let case = Case::new(device, dtype, Epilogue::SwiGlu, (rows, in_features, columns), 0.25);
                let (gate_up, out) =
                    (device.poisoned(dtype, rows * 2 * columns), device.poisoned(dtype, rows * columns));
                let linear =
                    Linear { out: gate_up, out_features: 2 * columns, epilogue: Epilogue::Store, ..case.linear };
                device.run(&usual(&linear));
                device.run(&SwiGlu { gate_up, out, rows, columns, dtype }.launch());
                let unfused: Vec<f64> = device.read(out, dtype, rows * columns).into_iter().map(f64::from).collect();
                let found = case.run(usual);
                // The gate is rounded once and silu multiplies that error by up to its size; then up, both results.
                assert_rounded("swiglu", &[rows, in_features, columns], &found, &unfused, (dtype, 8.0));
            }
        }
    });
}

#[test]
#[should_panic(expected = "linear: 12 input features are not a multiple of 8")]
fn refuses_inputs_that_are_no_vectors() {
    let null = DevicePointer::NULL;
    let (rows, in_features, out_features, epilogue, dtype) = (1, 12, 8, Epilogue::Store, Float16::Bf16);
    Linear { x: null, weight: null, out: null, rows, in_features, out_features, epilogue, dtype }.launch(Family::Tiled);
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    for (rows, epilogue) in [(1, Epilogue::SwiGlu), (9, Epilogue::Store), (33, Epilogue::Add), (66, Epilogue::StoreF32)]
    {
        Case::new(device, Float16::Bf16, epilogue, (rows, 136, 18), 0.25).check();
    }
    for rows in [33, 66] {
        let case = Case::new(device, Float16::Bf16, Epilogue::Store, (rows, 136, 18), 0.25);
        let with = |workspace| Family::Streamed(Workspace { capacity: MEDIUM, ..workspace });
        let found = case.streamed(|linear, workspace| linear.launch(with(workspace)));
        assert_same_bits("less in flight", &[rows, 136, 18], &found, &case.take(Way::Streamed));
    }
    let shared = Case::new(device, Float16::Bf16, Epilogue::StoreF32, (17, 136, 18), 0.25);
    let found = shared.streamed(|linear, workspace| linear.wide(workspace, 3));
    assert_same_bits("blocks of 3 items and 1", &[17, 136, 18], &found, &shared.take(Way::Streamed));
}
