//! What commands take and answer, described once: the same description checks a client's arguments
//! and becomes the answer to `query-qmp-schema`.
//!
//! [`Shaped`] gives a Rust type its description; `qmp_struct!` and `qmp_enum!` make types that have
//! one. A description is QMP's view (names on the wire), serde does the conversion.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A type of QMP.
#[derive(Debug)]
pub enum Type {
    /// A string.
    Str,
    /// A whole number from the first to the second.
    Int(i128, i128),
    /// Any number.
    Number,
    /// true or false.
    Bool,
    /// Anything at all.
    Any,
    /// A list of one type.
    List(&'static Type),
    /// An object.
    Object(&'static Object),
    /// One of some words.
    Enum(&'static Enum),
}

/// An object with named members.
#[derive(Debug)]
pub struct Object {
    /// The Rust type's path, by which it is told from others.
    pub name: &'static str,
    /// Its members.
    pub members: &'static [Member],
    /// A union, whose cases are the values of the first member of enum type: what is told of
    /// those that have members of their own.
    pub union: Option<&'static [Case]>,
    /// Further members are let through, for the command to judge.
    pub open: bool,
}

/// One case of a union.
#[derive(Debug)]
pub struct Case {
    /// The value that makes it this case.
    pub word: &'static str,
    /// Its members that clients ask about; there may be more.
    pub members: &'static Object,
}

/// One member of an object.
#[derive(Debug)]
pub struct Member {
    /// Its name on the wire.
    pub name: &'static str,
    /// Its type.
    pub ty: &'static Type,
    /// It may be left out.
    pub optional: bool,
}

/// Some words.
#[derive(Debug)]
pub struct Enum {
    /// The Rust type's path.
    pub name: &'static str,
    /// The words on the wire.
    pub values: &'static [&'static str],
}

/// A Rust type that QMP can carry.
pub trait Shaped {
    /// Its description.
    const TYPE: &'static Type;
    /// A member of this type may be left out.
    const OPTIONAL: bool = false;

    /// Whether a member with this value is left out.
    fn is_absent(&self) -> bool {
        false
    }
}

/// A type that can be all of a command's arguments.
pub trait Arguments: Shaped + DeserializeOwned {
    /// Its description.
    const OBJECT: &'static Object;
}

macro_rules! shaped_numbers {
    ($($t:ty),*) => {
        $(impl Shaped for $t {
            const TYPE: &'static Type = &Type::Int(<$t>::MIN as i128, <$t>::MAX as i128);
        })*
    };
}
shaped_numbers!(u8, u16, u32, u64, i32, i64);

impl Shaped for String {
    const TYPE: &'static Type = &Type::Str;
}

impl Shaped for bool {
    const TYPE: &'static Type = &Type::Bool;
}

impl Shaped for f64 {
    const TYPE: &'static Type = &Type::Number;
}

impl Shaped for Value {
    const TYPE: &'static Type = &Type::Any;
}

impl<T: Shaped> Shaped for Vec<T> {
    const TYPE: &'static Type = &Type::List(T::TYPE);
}

impl<T: Shaped> Shaped for Option<T> {
    const TYPE: &'static Type = T::TYPE;
    const OPTIONAL: bool = true;

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

/// An object of which nothing is known here: QEMU's `gen: false`.
impl Shaped for Map<String, Value> {
    const TYPE: &'static Type = &Type::Object(&Object {
        name: "Map",
        members: &[],
        union: None,
        open: true,
    });
}

/// Defines an object: `field as "name-on-the-wire": Type`, the name left out where it is the field's.
macro_rules! qmp_struct {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident $(as $wire:literal)? : $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $($(#[$field_meta])*
            #[serde($(rename = $wire,)? skip_serializing_if = "crate::qmp::shape::Shaped::is_absent")]
            pub $field: $ty,)*
        }

        impl $crate::qmp::shape::Arguments for $name {
            const OBJECT: &'static $crate::qmp::shape::Object = &$crate::qmp::shape::Object {
                name: concat!(module_path!(), "::", stringify!($name)),
                members: &[$($crate::qmp::shape::Member {
                    name: $crate::qmp::shape::wire_name!($field $($wire)?),
                    ty: <$ty as $crate::qmp::shape::Shaped>::TYPE,
                    optional: <$ty as $crate::qmp::shape::Shaped>::OPTIONAL,
                }),*],
                union: None,
                open: false,
            };
        }

        impl $crate::qmp::shape::Shaped for $name {
            const TYPE: &'static $crate::qmp::shape::Type = &$crate::qmp::shape::Type::Object(
                <$name as $crate::qmp::shape::Arguments>::OBJECT,
            );
        }
    };
}

/// Defines an object whose further members are let through in `rest`; of a union, they depend on
/// the member of enum type.
macro_rules! qmp_open_struct {
    ($(#[$meta:meta])* $name:ident ($union:expr) {
        $($(#[$field_meta:meta])* $field:ident $(as $wire:literal)? : $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $($(#[$field_meta])*
            #[serde($(rename = $wire,)? skip_serializing_if = "crate::qmp::shape::Shaped::is_absent")]
            pub $field: $ty,)*
            /// The members that are not named here.
            #[serde(flatten)]
            pub rest: serde_json::Map<String, serde_json::Value>,
        }

        impl $crate::qmp::shape::Arguments for $name {
            const OBJECT: &'static $crate::qmp::shape::Object = &$crate::qmp::shape::Object {
                name: concat!(module_path!(), "::", stringify!($name)),
                members: &[$($crate::qmp::shape::Member {
                    name: $crate::qmp::shape::wire_name!($field $($wire)?),
                    ty: <$ty as $crate::qmp::shape::Shaped>::TYPE,
                    optional: <$ty as $crate::qmp::shape::Shaped>::OPTIONAL,
                }),*],
                union: $union,
                open: true,
            };
        }

        impl $crate::qmp::shape::Shaped for $name {
            const TYPE: &'static $crate::qmp::shape::Type = &$crate::qmp::shape::Type::Object(
                <$name as $crate::qmp::shape::Arguments>::OBJECT,
            );
        }
    };
}

/// Defines an enum: `Variant as "word"`.
macro_rules! qmp_enum {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident as $wire:literal),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $wire)] $variant,)*
        }

        impl $name {
            /// The word on the wire.
            // not every enum is ever put into words here
            #[allow(dead_code)]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $wire,)* }
            }
        }

        impl $crate::qmp::shape::Shaped for $name {
            const TYPE: &'static $crate::qmp::shape::Type =
                &$crate::qmp::shape::Type::Enum(&$crate::qmp::shape::Enum {
                    name: concat!(module_path!(), "::", stringify!($name)),
                    values: &[$($wire),*],
                });
        }
    };
}

macro_rules! wire_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wire:literal) => {
        $wire
    };
}

pub(super) use {qmp_enum, qmp_open_struct, qmp_struct, wire_name};

qmp_struct! {
    /// No arguments, and nothing to answer.
    Empty {}
}
