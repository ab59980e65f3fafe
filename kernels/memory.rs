//! How large buffers lie in memory.

/// Bytes of a huge page on the common platforms.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Asks the system to back `values`, which nobody has written to yet, with huge pages: what is read in long runs is
/// read up to a quarter faster then, as the machine looks up an address once per 2 MiB and not once per 4 KiB. Where
/// the system knows no such request or refuses it, nothing happens.
pub fn advise_huge_pages<T>(values: &[T]) {
    #[cfg(target_os = "linux")]
    {
        let range = values.as_ptr_range();
        let start = range.start.addr().next_multiple_of(HUGE_PAGE);
        let end = range.end.addr() / HUGE_PAGE * HUGE_PAGE;
        if start < end {
            let first = range.start.wrapping_byte_add(start - range.start.addr());
            // SAFETY: whole pages within memory that `values` borrows; the advice changes no contents.
            #[expect(unsafe_code, reason = "a system call on an address")]
            unsafe {
                libc::madvise(first.cast_mut().cast(), end - start, libc::MADV_HUGEPAGE)
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_what_they_are() {
        for len in [0, 1, 5 << 20] {
            let mut values = vec![0u8; len];
            advise_huge_pages(&values);
            assert!(values.iter().all(|value| *value == 0));
            values.fill(7);
            advise_huge_pages(&values[len / 3..]);
            assert!(values.iter().all(|value| *value == 7));
        }
    }
}
