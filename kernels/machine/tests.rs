//! What is measured is a rate of this machine: only its bounds are known.

use super::{bf16_operations_per_s, byte_operations_per_s, f32_operations_per_s, read_bytes_per_s};

#[test]
fn rates_are_those_of_a_machine() {
    let bandwidth = read_bytes_per_s();
    assert!((1e8..1e14).contains(&bandwidth), "{bandwidth} bytes per second");
    for operations in [f32_operations_per_s(), bf16_operations_per_s(), byte_operations_per_s()] {
        // One scalar multiply-add per nanosecond is less than any processor does, even shared with other tests.
        assert!((1e8..1e16).contains(&operations), "{operations} operations per second");
    }
}
