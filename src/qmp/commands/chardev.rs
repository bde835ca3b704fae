//! Character devices.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use super::lifecycle::done;
use crate::cli::CHARDEV_BACKENDS;
use crate::qmp::control::{Answer, ChardevInfo};
use crate::qmp::error::QmpError;
use crate::qmp::shape::{Empty, qmp_enum, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("query-chardev", |c, Empty {}| -> Answer<Vec<ChardevInfo>> {
        Ok(c.control.chardevs())
    });
    table.add("query-chardev-backends", query_backends);
    table.add("ringbuf-read", ringbuf_read);
    table.add("ringbuf-write", ringbuf_write);
}

qmp_struct! {
    /// A kind of character device.
    Backend {
        /// Its name.
        name: String,
    }
}

fn query_backends(_: &mut Context<'_>, _: Empty) -> Answer<Vec<Backend>> {
    let names = CHARDEV_BACKENDS.iter().map(|(name, _)| (*name).to_owned());
    Ok(names.map(|name| Backend { name }).collect())
}

qmp_enum! {
    /// How bytes are put into a string.
    DataFormat {
        /// As they are; what is no UTF-8 becomes U+FFFD.
        Utf8 as "utf8",
        /// In base64.
        Base64 as "base64",
    }
}

qmp_struct! {
    /// `ringbuf-read`.
    RingbufRead {
        /// The character device.
        device: String,
        /// The most bytes.
        size: i64,
        /// How they are told.
        format: Option<DataFormat>,
    }
}

fn ringbuf_read(context: &mut Context<'_>, read: RingbufRead) -> Answer<String> {
    let size = usize::try_from(read.size).unwrap_or(0);
    if size == 0 {
        return Err(QmpError::generic("size must be greater than zero"));
    }
    let data = context.control.ringbuf_read(&read.device, size)?;
    Ok(match read.format {
        Some(DataFormat::Base64) => STANDARD.encode(&data),
        _ => String::from_utf8_lossy(&data).into_owned(),
    })
}

qmp_struct! {
    /// `ringbuf-write`.
    RingbufWrite {
        /// The character device.
        device: String,
        /// The bytes.
        data: String,
        /// How they are told.
        format: Option<DataFormat>,
    }
}

fn ringbuf_write(context: &mut Context<'_>, write: RingbufWrite) -> Answer<Empty> {
    let data = match write.format {
        Some(DataFormat::Base64) => STANDARD
            .decode(&write.data)
            .map_err(|e| QmpError::generic(format!("Base64 data is not valid: {e}")))?,
        _ => write.data.into_bytes(),
    };
    context
        .control
        .ringbuf_write(&write.device, &data)
        .map(done)
}
