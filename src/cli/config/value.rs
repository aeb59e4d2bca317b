//! The values of options as they are written in a file. Each refuses what makes no sense where it stands, so that the
//! message can say in which line.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::base::limits::MIN_BYTES_LIMIT;
use crate::base::{IdMap, IdRange};
use crate::cli::args::Size;

/// Bytes as a number, or as people write them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is a number of bytes, or a text such as \"512M\" or \"10G\"")]
enum Bytes {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        match Bytes::deserialize(from)? {
            Bytes::Number(bytes) => bytes.to_string().parse(),
            Bytes::Text(text) => text.parse(),
        }
        .map_err(D::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

pub(super) fn as_text<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn as_texts<T: Display, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(T::to_string))
}

pub(super) fn of_text<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

pub(super) fn id_map<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IdRange>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let ranges: Vec<IdRange> =
        texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)?;
    IdMap::new(&ranges).map_err(D::Error::custom)?;
    Ok(ranges)
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() {
        return Ok(path);
    }
    Err(D::Error::custom(format!("{path:?} is not an absolute path: it begins with /")))
}

pub(super) fn some_absolute<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(from).map(Some)
}

pub(super) fn bytes_cap<'de, D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
    let size = Size::deserialize(from)?;
    if size.0 >= MIN_BYTES_LIMIT {
        return Ok(size);
    }
    Err(D::Error::custom(format!("a session needs at least {MIN_BYTES_LIMIT} bytes, not {}", size.0)))
}

pub(super) fn inodes_cap<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match u64::deserialize(from)? {
        // The root directory is the first.
        few @ 0..=1 => Err(D::Error::custom(format!("a session needs at least 2 inodes, not {few}"))),
        inodes => Ok(inodes),
    }
}

pub(super) fn days<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(D::Error::custom("days are at least 1")),
        days => Ok(days),
    }
}

pub(super) fn percentages<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let list = Vec::<u8>::deserialize(from)?;
    if list.iter().all(|percent| (1..=100).contains(percent)) && list.is_sorted_by(|a, b| a < b) {
        return Ok(list);
    }
    Err(D::Error::custom(format!("{list:?} are not percentages from 1 to 100, ascending")))
}
