//! The writing end of a tar stream: POSIX pax, so that names of any bytes, nanoseconds, xattrs and large files pass.

use std::io::Write;

use tar::{EntryType, Header};

use super::TreeError;
use super::acl_text::{ACLS, to_text};
use super::item::{Item, ItemKind};
use super::list::seconds;

const BLOCK: u64 = 512;
/// The largest number an eleven-digit octal field holds.
const OCTAL_11: u64 = 0o77_777_777_777;
/// The largest of a seven-digit one.
const OCTAL_7: u64 = 0o7_777_777;

/// Writes items as a tar stream.
pub(super) struct Writer<'a> {
    out: &'a mut dyn Write,
    /// What the top of the tree is called.
    top: Vec<u8>,
    /// Bytes of data still to come for the item begun.
    owed: u64,
    /// Zeros that fill its last block.
    padding: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, top: &[u8]) -> Self {
        Writer { out, top: top.to_owned(), owed: 0, padding: 0 }
    }

    /// Begins an item. Of a file, the bytes of its extents must follow, in order.
    pub(super) fn begin(&mut self, item: &Item) -> Result<(), TreeError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(entry_type(&item.kind));
        let mut records = Records::default();
        let name = self.name_of(&item.path, item.kind == ItemKind::Directory);

        let map = sparse_map(item);
        let data: u64 = match &item.kind {
            ItemKind::File { extents } => extents.iter().map(|(_, length)| length).sum(),
            _ => 0,
        };
        let stored = data + map.as_ref().map_or(0, |map| map.len() as u64);
        if map.is_some() {
            records.add(b"GNU.sparse.major", b"1");
            records.add(b"GNU.sparse.minor", b"0");
            records.add(b"GNU.sparse.name", &name);
            records.number(b"GNU.sparse.realsize", item.size);
            // What a reader that knows no sparse files would call it.
            set_name(&mut header, b"GNUSparseFile.0/data");
        } else if !set_name(&mut header, &name) {
            records.add(b"path", &name);
        }
        let link = match &item.kind {
            ItemKind::Symlink(target) => Some(target.clone()),
            ItemKind::HardLink(path) => Some(self.name_of(path, false)),
            _ => None,
        };
        if let Some(link) = link.as_ref().filter(|link| !set_link(&mut header, link)) {
            records.add(b"linkpath", link);
        }
        records.fields(&mut header, item, stored);
        if let ItemKind::CharDevice(major, minor) | ItemKind::BlockDevice(major, minor) = item.kind {
            header.set_device_major(major).and_then(|()| header.set_device_minor(minor))?;
        }
        header.set_cksum();
        self.extension(&records)?;
        self.out.write_all(header.as_bytes())?;
        if let Some(map) = &map {
            self.out.write_all(map)?;
        }
        self.owed = data;
        self.padding = stored.next_multiple_of(BLOCK) - stored;
        Ok(())
    }

    /// The next bytes of the file begun.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        debug_assert!(bytes.len() as u64 <= self.owed);
        self.out.write_all(bytes)?;
        self.owed -= bytes.len() as u64;
        Ok(())
    }

    /// Ends the item begun. A file that shrank while it was read is filled up with zeros.
    pub(super) fn end(&mut self) -> Result<(), TreeError> {
        let mut zeros = std::mem::take(&mut self.owed) + std::mem::take(&mut self.padding);
        while zeros > 0 {
            let some = zeros.min(64 << 10);
            self.out.write_all(&[0; 64 << 10][..some as usize])?;
            zeros -= some;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(self) -> Result<(), TreeError> {
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        Ok(())
    }

    fn name_of(&self, path: &[Vec<u8>], directory: bool) -> Vec<u8> {
        let mut name = self.top.clone();
        for part in path {
            name.push(b'/');
            name.extend_from_slice(part);
        }
        if directory {
            name.push(b'/');
        }
        name
    }

    fn extension(&mut self, records: &Records) -> Result<(), TreeError> {
        if records.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        set_name(&mut header, b"PaxHeaders/x");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = records.0.len() as u64;
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&records.0)?;
        self.out.write_all(&[0; BLOCK as usize][..(size.next_multiple_of(BLOCK) - size) as usize])?;
        Ok(())
    }
}

fn entry_type(kind: &ItemKind) -> EntryType {
    match kind {
        ItemKind::File { .. } => EntryType::Regular,
        ItemKind::Directory => EntryType::Directory,
        ItemKind::Symlink(_) => EntryType::Symlink,
        ItemKind::HardLink(_) => EntryType::Link,
        ItemKind::Fifo => EntryType::Fifo,
        ItemKind::CharDevice(..) => EntryType::Char,
        ItemKind::BlockDevice(..) => EntryType::Block,
    }
}

/// The map of a file with holes (GNU sparse format 1.0), filled to a block; `None` when there are none.
fn sparse_map(item: &Item) -> Option<Vec<u8>> {
    let ItemKind::File { extents } = &item.kind else { return None };
    let data: u64 = extents.iter().map(|(_, length)| length).sum();
    if data == item.size {
        return None;
    }
    let end = extents.last().map_or(0, |(offset, length)| offset + length);
    // A hole at the end is marked by an empty piece behind it.
    let tail = (end < item.size).then_some((item.size, 0));
    let all = || extents.iter().copied().chain(tail);
    let mut map = format!("{}\n", all().count());
    for (offset, length) in all() {
        map += &format!("{offset}\n{length}\n");
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    Some(map)
}

/// Puts a name into the header; false when it needs a record: it is too long, or text beyond ASCII. What is no text at
/// all stays in the header if it fits, because a record is UTF-8 by the standard.
fn set_name(header: &mut Header, name: &[u8]) -> bool {
    fill(&mut header.as_old_mut().name, name)
}

fn set_link(header: &mut Header, name: &[u8]) -> bool {
    fill(&mut header.as_old_mut().linkname, name)
}

fn fill(field: &mut [u8; 100], name: &[u8]) -> bool {
    let kept = &name[..name.len().min(field.len())];
    field[..kept.len()].copy_from_slice(kept);
    kept.len() == name.len() && (name.is_ascii() || std::str::from_utf8(name).is_err())
}

/// The records of an extended header: `LENGTH KEY=VALUE\n`, values of any bytes.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.extend_from_slice(&record(key, value));
    }

    fn number(&mut self, key: &[u8], value: u64) {
        self.add(key, value.to_string().as_bytes());
    }

    /// The numbers of an item, as records where the header's fields are too small, and its xattrs.
    fn fields(&mut self, header: &mut Header, item: &Item, stored: u64) {
        header.set_mode(item.mode & 0o7777);
        for (key, value) in [(&b"uid"[..], u64::from(item.uid)), (b"gid", u64::from(item.gid))] {
            if value > OCTAL_7 {
                self.number(key, value);
            }
        }
        header.set_uid(u64::from(item.uid).min(OCTAL_7));
        header.set_gid(u64::from(item.gid).min(OCTAL_7));
        if stored > OCTAL_11 {
            self.number(b"size", stored);
        }
        header.set_size(stored.min(OCTAL_11));
        header.set_mtime(seconds(item.mtime).min(OCTAL_11));
        if item.mtime.nanos != 0 || !(0..=OCTAL_11 as i64).contains(&{ item.mtime.secs }) {
            self.add(b"mtime", decimal(item.mtime.secs, item.mtime.nanos).as_bytes());
        }
        for (name, value) in &item.xattrs {
            self.add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
            // Other tars know ACLs only by these.
            let acl = ACLS.iter().find(|(xattr, _)| xattr == name);
            if let Some((text, (_, key))) = to_text(value).zip(acl) {
                self.add(key, text.as_bytes());
            }
        }
    }
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    // The length counts its own digits, so that it may take one more round to find.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A time as a decimal number. Before 1970 the nanoseconds count forward, the number backward.
fn decimal(secs: i64, nanos: u32) -> String {
    if secs >= 0 || nanos == 0 {
        return format!("{secs}.{nanos:09}");
    }
    let (whole, part) = (-(secs + 1), 1_000_000_000 - nanos);
    format!("-{whole}.{part:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        assert_eq!(record(b"path", b"x"), b"9 path=x\n");
        for length in 0..1200 {
            let record = record(b"k", &vec![b'v'; length]);
            let digits = record.iter().position(|&b| b == b' ').unwrap();
            let said: usize = std::str::from_utf8(&record[..digits]).unwrap().parse().unwrap();
            assert_eq!(said, record.len());
        }
    }

    #[test]
    fn times_before_1970_are_negative_numbers() {
        assert_eq!(decimal(5, 1), "5.000000001");
        assert_eq!(decimal(-1, 500_000_000), "-0.500000000");
        assert_eq!(decimal(-2, 250_000_000), "-1.750000000");
        assert_eq!(decimal(-2, 0), "-2.000000000");
    }
}
