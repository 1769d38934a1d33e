// SPDX-License-Identifier: Apache-2.0
//! How large a backing volume must be so that the guest sees exactly its size.
//!
//! DRBD 8.4 keeps its internal metadata at the end of the backing volume: a 4 KiB superblock, a
//! 32 KiB activity log and a bitmap of one 512-byte sector for each 16 MiB of the backing volume,
//! the bitmap rounded up to 4 KiB.

const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
const BITMAP_SPAN: u64 = 16 << 20;
const FIXED_SECTORS: u64 = 8 + 64;
/// LVM's extent size in our volume group.
pub const EXTENT: u64 = 4 << 20;
/// Largest guest disk: 16 TiB, far above any branch server.
pub const GUEST_BYTES_MAX: u64 = 16 << 40;

/// Bytes DRBD takes from the end of a backing volume of this size.
#[must_use]
pub fn metadata_bytes(backing_bytes: u64) -> u64 {
    let bitmap_sectors = backing_bytes.div_ceil(BITMAP_SPAN).next_multiple_of(BLOCK / SECTOR);
    (bitmap_sectors + FIXED_SECTORS) * SECTOR
}

/// Size of the backing volume for a guest disk: whole extents, the least that fits.
#[must_use]
pub fn backing_bytes(guest_bytes: u64) -> u64 {
    let mut backing = guest_bytes.next_multiple_of(EXTENT);
    while backing - backing % BLOCK < guest_bytes + metadata_bytes(backing) {
        backing += EXTENT;
    }
    backing
}

/// Why a guest size cannot be used.
#[must_use]
pub fn size_problem(guest_bytes: u64) -> Option<String> {
    if guest_bytes == 0 || !guest_bytes.is_multiple_of(BLOCK) {
        return Some(format!("{guest_bytes} bytes is no multiple of 4 KiB above zero"));
    }
    if guest_bytes > GUEST_BYTES_MAX {
        return Some(format!("{guest_bytes} bytes is more than {GUEST_BYTES_MAX}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_matches_the_documented_formula() {
        // 1 GiB: 64 bitmap sectors + 72 fixed; 1 TiB: 65536 + 72.
        assert_eq!(metadata_bytes(1 << 30), (64 + 72) * 512);
        assert_eq!(metadata_bytes(1 << 40), (65_536 + 72) * 512);
    }

    #[test]
    fn the_guest_always_fits_and_no_extent_is_wasted() {
        for guest in [4096, EXTENT, EXTENT - 4096, 3 << 30, (3 << 30) + 4096, 7 << 40] {
            let backing = backing_bytes(guest);
            assert!(backing - metadata_bytes(backing) >= guest, "{guest}");
            let less = backing - EXTENT;
            assert!(less < guest + metadata_bytes(less), "{guest} fits into {less}");
        }
    }

    #[test]
    fn odd_and_absurd_sizes_are_refused() {
        for bad in [0, 1, 4095, 4097, GUEST_BYTES_MAX + 4096, u64::MAX] {
            assert!(size_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(size_problem(1 << 30), None);
    }
}
