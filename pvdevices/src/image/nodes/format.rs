//! Opening formats: the files and images that they name, guesses, and temporary images.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xenner_console::FdSource;

use super::super::SECTOR_SIZE;
use super::super::buffers::AlignedBuffer;
use super::super::config::{Backing, Driver, NodeConfig, NodeRef};
use super::super::error::ImageError;
use super::super::file::HostFile;
use super::super::formats::{
    self, FormatImage, FormatOptions, HEADER_BYTES, Header, HostStorage, Layer, References,
};
use super::super::lock::Claim;
use super::super::probe::{self, PROBED_BYTES};
use super::{BlockNodes, Body, Node, NodeError};

/// Bytes of a cluster of a temporary image (qcow2's usual size).
const OVERLAY_CLUSTER: u32 = 64 << 10;

impl BlockNodes {
    /// A format that nobody named is found out from the file's first bytes.
    pub(super) fn open_guessed(
        &mut self,
        config: &NodeConfig,
        node: &mut Node,
        child: &str,
        fds: &mut dyn FdSource,
    ) -> Result<Body, NodeError> {
        let Body::File {
            spare: Some(file), ..
        } = &self.find_mut(child)?.body
        else {
            return Err(NodeError::NoFile(child.to_owned()));
        };
        let path = file.path().to_owned();
        let format = probe::format(&beginning(file, PROBED_BYTES)?);
        match format {
            "raw" => {
                log::warn!(
                    target: "xenner::block",
                    "Image format was not specified for '{}' and probing guessed raw. Detecting \
                     the format automatically is dangerous for raw images, write operations on \
                     block 0 will be restricted. Specify the 'raw' format explicitly to remove \
                     the restrictions.",
                    path.display()
                );
                Ok(Body::Raw {
                    offset: 0,
                    size: None,
                    guessed: true,
                    image: None,
                })
            }
            "qcow2" => {
                node.driver = "qcow2";
                self.open_qcow2(node, child, (&Backing::FromHeader, None), fds)
            }
            "vmdk" => {
                node.driver = "vmdk";
                node.read_only |= config.auto_read_only;
                self.open_vmdk(node, child, fds)
            }
            format => Err(NodeError::Image(ImageError::Unsupported {
                path,
                format: format.to_owned(),
            })),
        }
    }

    /// qcow2 over `child`, with what its options say of the other files.
    pub(super) fn open_qcow2(
        &mut self,
        node: &mut Node,
        child: &str,
        (backing, data_file): (&Backing, Option<&NodeRef>),
        fds: &mut dyn FdSource,
    ) -> Result<Body, NodeError> {
        let write = !node.read_only;
        let file = self.claim(child, format_claim(node), write, fds)?;
        let path = file.path().to_owned();
        let header = Header::parse(&beginning(&file, HEADER_BYTES)?);
        let Some(header) = header else {
            return Err(not_of_format(&path, "qcow2", io::ErrorKind::InvalidData.into()).into());
        };
        check_header(&file, &header, write)?;
        let options = options(node, &file, header.cluster_size());
        let storage = HostStorage::new(file, node.discards);
        let (image, refers) = formats::open_qcow2(storage, write)
            .map_err(|source| not_of_format(&path, "qcow2", source))?;
        let data = self.data_file(node, data_file, &refers, &path, fds)?;
        let backing = self.backing(node, backing, &refers, &path, fds)?;
        let layer = formats::finish_qcow2(image, backing, data);
        Ok(Body::Format(Arc::new(FormatImage::new(layer, options))))
    }

    /// The file that has the data of an image, if it is not the image itself.
    fn data_file(
        &mut self,
        node: &mut Node,
        given: Option<&NodeRef>,
        refers: &References,
        path: &Path,
        fds: &mut dyn FdSource,
    ) -> Result<Option<HostStorage>, NodeError> {
        let Some(named) = &refers.data_file else {
            return Ok(None);
        };
        let reference = match (given, named) {
            (Some(given), _) => given.clone(),
            (None, Some(named)) => file_node(node, path, named)?.into(),
            (None, None) => {
                let path = path.to_owned();
                return Err(NodeError::Image(ImageError::NoDataFile { path }));
            }
        };
        let child = self.child(&reference, node, fds)?;
        let file = self.claim(&child, format_claim(node), !node.read_only, fds)?;
        Ok(Some(HostStorage::new(file, node.discards)))
    }

    /// The image under a copy-on-write image.
    fn backing(
        &mut self,
        node: &mut Node,
        given: &Backing,
        refers: &References,
        path: &Path,
        fds: &mut dyn FdSource,
    ) -> Result<Option<Arc<Layer>>, NodeError> {
        let reference = match (given, &refers.backing) {
            (Backing::None, _) | (Backing::FromHeader, None) => return Ok(None),
            (Backing::Node(reference), _) => reference.clone(),
            (Backing::FromHeader, Some((named, format))) => {
                implied_backing(node, path, named, format.as_deref())?.into()
            }
        };
        let name = match &reference {
            NodeRef::Inline(config) => {
                // Whatever it says, nobody writes to what lies under an image.
                let mut config = config.as_ref().clone();
                config.read_only = true;
                self.child(&config.into(), node, fds)?
            }
            NodeRef::Name(_) => self.child(&reference, node, fds)?,
        };
        // It is the backing image, not a file of this one.
        node.children.retain(|child| *child != name);
        node.backing = Some(name.clone());
        self.layer(&name, fds).map(Some)
    }

    /// A node as the layer under another image.
    fn layer(&mut self, name: &str, fds: &mut dyn FdSource) -> Result<Arc<Layer>, NodeError> {
        let node = self.find_mut(name)?;
        let no_backing = || NodeError::NoBacking(name.to_owned());
        let file = match &node.body {
            Body::Format(image) if node.read_only => return Ok(image.layer()),
            Body::Raw {
                offset: 0,
                size: None,
                image: None,
                ..
            } => node.children.first().cloned().ok_or_else(no_backing)?,
            Body::File { .. } => name.to_owned(),
            _ => return Err(no_backing()),
        };
        let file = self.claim(&file, Claim::format(false), false, fds)?;
        let path = file.path().to_owned();
        let layer = formats::raw_layer(HostStorage::new(file, false))
            .map_err(|source| not_of_format(&path, "raw", source))?;
        Ok(Arc::new(layer))
    }

    /// VMDK over `child`; the files with the data lie beside it.
    pub(super) fn open_vmdk(
        &mut self,
        node: &mut Node,
        child: &str,
        fds: &mut dyn FdSource,
    ) -> Result<Body, NodeError> {
        if !node.read_only {
            return Err(NodeError::VmdkWrite);
        }
        let file = self.claim(child, Claim::format(false), false, fds)?;
        let path = file.path().to_owned();
        let options = options(node, &file, SECTOR_SIZE as u32);
        let mut fault = None;
        let layer = formats::open_vmdk(HostStorage::new(file, false), &mut |extent| {
            let named = extent.to_string_lossy();
            let opened = file_node(node, &path, &named)
                .and_then(|config| self.child(&config.into(), node, fds))
                .and_then(|child| self.claim(&child, Claim::format(false), false, fds));
            opened
                .map(|file| HostStorage::new(file, false))
                .map_err(|error| {
                    // The library would flatten what is wrong with the file.
                    fault = Some(error);
                    io::ErrorKind::Other.into()
                })
        });
        match (layer, fault) {
            (_, Some(fault)) => Err(fault),
            (Ok(layer), None) => Ok(Body::Format(Arc::new(FormatImage::new(layer, options)))),
            (Err(source), None) => Err(not_of_format(&path, "vmdk", source).into()),
        }
    }

    /// A temporary image over what `config` says, which stays as it is.
    pub(super) fn open_snapshot(
        &mut self,
        config: &NodeConfig,
        node: &mut Node,
        fds: &mut dyn FdSource,
    ) -> Result<Body, NodeError> {
        let mut below = config.clone();
        below.snapshot = false;
        below.read_only = true;
        below.name = None;
        let name = self.child(&below.into(), node, fds)?;
        node.children.clear();
        node.backing = Some(name.clone());
        node.driver = "qcow2";
        let base = self.layer(&name, fds)?;
        let file = Arc::new(HostFile::temporary()?);
        let path = file.path().to_owned();
        let mut options = options(node, &file, OVERLAY_CLUSTER);
        options.discards = true;
        let size = base.size().checked_next_multiple_of(SECTOR_SIZE);
        let storage = HostStorage::new(file, true);
        let layer = formats::create_overlay(storage, size.unwrap_or(base.size()), base)
            .map_err(|source| ImageError::Temporary { path, source })?;
        Ok(Body::Format(Arc::new(FormatImage::new(layer, options))))
    }
}

/// Refuses what the library would not, and what it would damage.
fn check_header(file: &HostFile, header: &Header, write: bool) -> Result<(), ImageError> {
    let path = || file.path().to_owned();
    let fault = |what, way_out| ImageError::Header {
        path: path(),
        what,
        way_out,
    };
    header
        .check(write)
        .map_err(|(what, way_out)| fault(what, way_out))?;
    if !write {
        return Ok(());
    }
    let checked = formats::tables(file, header).map_err(|source| ImageError::Query {
        path: path(),
        what: "tables",
        source,
    })?;
    checked.map_err(|what| fault(what, "repair it by qemu-img check -r all"))
}

fn format_claim(node: &Node) -> Claim {
    let claim = Claim::format(!node.read_only);
    match node.force_share && node.read_only {
        true => claim.sharing(),
        false => claim,
    }
}

fn options(node: &Node, file: &HostFile, cluster: u32) -> FormatOptions {
    FormatOptions {
        write: !node.read_only,
        discards: node.discards,
        cluster,
        memory_align: file.limits().memory_align,
        block: file.limits().offset_align,
    }
}

fn not_of_format(path: &Path, format: &'static str, source: io::Error) -> ImageError {
    ImageError::Format {
        path: path.to_owned(),
        format,
        source,
    }
}

/// The first bytes of a file; zeros where it is shorter.
fn beginning(file: &HostFile, len: usize) -> Result<Vec<u8>, ImageError> {
    let mut head = AlignedBuffer::new(len, PROBED_BYTES);
    file.read(0, &[head.head(len)])
        .map_err(|source| ImageError::Query {
            path: file.path().to_owned(),
            what: "beginning",
            source,
        })?;
    Ok(head.bytes().to_vec())
}

/// A file node for a name that stands in the image at `path`, cached as the image is.
fn file_node(node: &Node, path: &Path, named: &str) -> Result<NodeConfig, NodeError> {
    let mut config = NodeConfig::file(named_path(path, named)?);
    config.cache = node.cache;
    config.read_only = node.read_only;
    config.force_share = node.force_share;
    Ok(config)
}

/// The path that an image names; a protocol in front of it would lead elsewhere.
fn named_path(path: &Path, named: &str) -> Result<PathBuf, ImageError> {
    let plain = match named.split_once(':') {
        Some(("file", rest)) => rest,
        Some((protocol, _)) if !protocol.contains('/') => {
            return Err(ImageError::NotAFile {
                path: path.to_owned(),
                named: named.to_owned(),
            });
        }
        _ => named,
    };
    Ok(formats::beside(path, Path::new(plain)))
}

/// The backing node that a header asks for.
fn implied_backing(
    node: &Node,
    path: &Path,
    named: &str,
    format: Option<&str>,
) -> Result<NodeConfig, NodeError> {
    let mut file = file_node(node, path, named)?;
    file.read_only = true;
    let file = NodeRef::from(file);
    let driver = match format {
        Some("raw" | "file" | "host_device") => Driver::Raw {
            file,
            offset: 0,
            size: None,
        },
        Some("qcow2") => Driver::Qcow2 {
            file,
            backing: Backing::FromHeader,
            data_file: None,
        },
        Some("vmdk") => Driver::Vmdk { file },
        Some(format) => {
            let path = named_path(path, named)?;
            let format = format.to_owned();
            return Err(NodeError::Image(ImageError::Unsupported { path, format }));
        }
        None => {
            return Err(NodeError::Image(ImageError::NoBackingFormat {
                path: path.to_owned(),
                backing: named.to_owned(),
            }));
        }
    };
    let mut config = NodeConfig::new(driver);
    config.cache = node.cache;
    config.read_only = true;
    config.force_share = node.force_share;
    Ok(config)
}
