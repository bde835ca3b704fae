//! The table of commands: name, description and function of each.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Value};

use super::check;
use super::commands::{self, Context};
use super::error::QmpError;
use super::shape::{Arguments, Object, Shaped, Type};

type Run =
    Box<dyn Fn(&mut Context<'_>, Map<String, Value>) -> Result<Value, QmpError> + Send + Sync>;

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) arguments: &'static Object,
    pub(super) answer: &'static Type,
    /// Features in the schema, by which clients know what they may do.
    pub(super) features: &'static [&'static str],
    /// Whether the schema and `query-commands` name it.
    pub(super) announced: bool,
    run: Run,
}

impl Command {
    /// Checks the arguments and runs the command.
    pub(super) fn run(
        &self,
        context: &mut Context<'_>,
        arguments: Map<String, Value>,
    ) -> Result<Value, QmpError> {
        check::arguments(&arguments, self.arguments)?;
        (self.run)(context, arguments)
    }

    /// Gives the command a feature.
    pub(super) fn feature(&mut self, features: &'static [&'static str]) -> &mut Self {
        self.features = features;
        self
    }

    /// Keeps it out of the schema and of `query-commands`: there for clients that ask unasked, and
    /// a reason for others to ask more than there is.
    pub(super) fn unannounced(&mut self) -> &mut Self {
        self.announced = false;
        self
    }
}

/// Commands in the making.
#[derive(Default)]
pub(super) struct Table(Vec<Command>);

impl Table {
    /// Adds a command; its types describe it.
    pub(super) fn add<A: Arguments + 'static, R: Shaped + Serialize + 'static>(
        &mut self,
        name: &'static str,
        run: fn(&mut Context<'_>, A) -> Result<R, QmpError>,
    ) -> &mut Command {
        let run: Run = Box::new(move |context, arguments| {
            // the check has let through what the types take
            let arguments = serde_json::from_value(Value::Object(arguments))
                .map_err(|e| QmpError::generic(format!("Invalid parameters: {e}")))?;
            let answer = run(context, arguments)?;
            serde_json::to_value(answer)
                .map_err(|e| QmpError::generic(format!("The answer cannot be told: {e}")))
        });
        self.0.push(Command {
            name,
            arguments: A::OBJECT,
            answer: R::TYPE,
            features: &[],
            announced: true,
            run,
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

static COMMANDS: LazyLock<Vec<Command>> = LazyLock::new(|| {
    let mut table = Table::default();
    commands::register(&mut table);
    table.0.sort_by_key(|command| command.name);
    table.0
});

/// All commands, by name.
pub(super) fn all() -> &'static [Command] {
    &COMMANDS
}

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    let at = all().binary_search_by_key(&name, |command| command.name);
    at.ok().map(|at| &all()[at])
}
