//! What is done, from the command line to the defined domain.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use similar::TextDiff;

use crate::args::Args;
use crate::convert::{Conversion, Wishes, convert};
use crate::editor::{Answer, Draft};
use crate::error::VivmError;
use crate::places;
use crate::report;
use crate::virsh::Virsh;

/// One run of the program.
struct App<'a> {
    args: &'a Args,
    virsh: Virsh,
    /// The document as it was found.
    original: String,
    conversion: Conversion,
    backed_up: bool,
}

/// Does what the command line says.
pub fn run(args: &Args) -> Result<ExitCode, VivmError> {
    let virsh = Virsh::new(args.connect.as_deref());
    let wishes = places::wishes(args, virsh.remote())?;
    let original = match (&args.domain, &args.file) {
        (Some(domain), _) => virsh.dump(domain)?,
        (None, Some(file)) => read(file)?,
        (None, None) => String::new(),
    };
    let conversion = converted(args, &original, &wishes)?;
    let mut app = App {
        args,
        virsh,
        original,
        conversion,
        backed_up: false,
    };
    if args.diff {
        app.diff()
    } else if args.no_edit || args.define {
        app.define_at_once()
    } else if args.print || args.file.is_some() {
        app.print()
    } else {
        app.edit()
    }
}

fn read(file: &Path) -> Result<String, VivmError> {
    let text = match file.to_str() {
        Some("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        _ => fs::read_to_string(file),
    };
    text.map_err(|source| VivmError::Read {
        path: file.to_owned(),
        source,
    })
}

fn converted(args: &Args, xml: &str, wishes: &Wishes) -> Result<Conversion, VivmError> {
    convert(xml, wishes).map_err(|source| VivmError::Convert {
        origin: args.source(),
        source,
    })
}

fn output(text: &str) -> Result<(), VivmError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    written
        .and_then(|()| stdout.flush())
        .map_err(VivmError::Terminal)
}

impl App<'_> {
    /// Whether the document is one of xenner's already.
    fn is_done(&self) -> bool {
        self.conversion.xml == self.original && self.conversion.decisions.is_empty()
    }

    fn nothing_to_do(&self) -> ExitCode {
        let name = &self.conversion.name;
        eprintln!("Domain {name} runs under xenner as it is; nothing is defined");
        ExitCode::SUCCESS
    }

    /// The exit status of what was printed.
    fn status(&self) -> ExitCode {
        match self.conversion.decisions.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn print(&self) -> Result<ExitCode, VivmError> {
        eprint!("{}", report::lines(&self.conversion));
        output(&self.conversion.xml)?;
        Ok(self.status())
    }

    fn diff(&self) -> Result<ExitCode, VivmError> {
        eprint!("{}", report::lines(&self.conversion));
        let diff = TextDiff::from_lines(&self.original, &self.conversion.xml);
        let name = &self.conversion.name;
        let (old, new) = (format!("{name}.xml"), format!("{name}.xml (xenner)"));
        output(&diff.unified_diff().header(&old, &new).to_string())?;
        Ok(self.status())
    }

    fn define_at_once(&mut self) -> Result<ExitCode, VivmError> {
        if self.is_done() && self.args.file.is_none() {
            return Ok(self.nothing_to_do());
        }
        eprint!("{}", report::lines(&self.conversion));
        if !self.conversion.decisions.is_empty() {
            return Err(VivmError::Undecided {
                name: self.conversion.name.clone(),
                count: self.conversion.decisions.len(),
            });
        }
        let draft = Draft::new(&self.conversion.name)?;
        draft.write(&self.conversion.xml)?;
        self.define(&draft, true)
    }

    fn define(&mut self, draft: &Draft, validate: bool) -> Result<ExitCode, VivmError> {
        self.back_up()?;
        self.virsh.define(draft.path(), validate)?;
        eprintln!("Domain {} defined", self.conversion.name);
        Ok(ExitCode::SUCCESS)
    }

    /// Keeps the document as it was, once, where the person wants it.
    fn back_up(&mut self) -> Result<(), VivmError> {
        let Some(path) = self.args.backup.as_ref().filter(|_| !self.backed_up) else {
            return Ok(());
        };
        // There may be secrets in it.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let written = file.and_then(|mut file| file.write_all(self.original.as_bytes()));
        written.map_err(|source| VivmError::Write {
            path: path.clone(),
            source,
        })?;
        self.backed_up = true;
        Ok(())
    }

    fn edit(&mut self) -> Result<ExitCode, VivmError> {
        let draft = Draft::new(&self.conversion.name)?;
        let mut round = Round {
            xml: self.conversion.xml.clone(),
            report: report::lines(&self.conversion),
            problem: None,
        };
        loop {
            let failure = match self.round(&draft, &mut round)? {
                Outcome::Done(code) => return Ok(code),
                Outcome::Failed(failure) => failure,
            };
            round.report = String::new();
            match self.settle(&draft, failure)? {
                Settled::Defined => return Ok(ExitCode::SUCCESS),
                Settled::Again(failure) => round.problem = Some(failure),
                Settled::GivenUp => {
                    let name = self.conversion.name.clone();
                    let path = draft.keep()?;
                    return Err(VivmError::GivenUp { name, path });
                }
            }
        }
    }

    /// Has it edited once, and defines it.
    fn round(&mut self, draft: &Draft, round: &mut Round) -> Result<Outcome, VivmError> {
        let text = report::with_comment(&round.xml, &round.report, round.problem.as_deref());
        let first = round.problem.is_none();
        let left = match draft.edit(&text) {
            Err(error) if first => return Err(error),
            Err(error) => {
                // What was written before is not lost by it.
                draft.write(&round.xml)?;
                return Ok(Outcome::Failed(report::failure(&error)));
            }
            Ok(left) => left,
        };
        let name = &self.conversion.name;
        if left.is_none() && first && !self.is_done() && !draft.confirm(name)? {
            eprintln!("Domain {name} is not defined");
            return Ok(Outcome::Done(ExitCode::FAILURE));
        }
        let edited = report::without_comment(&left.unwrap_or(text));
        if edited.trim().is_empty() {
            eprintln!("Domain {name} is not defined: the file is empty");
            return Ok(Outcome::Done(ExitCode::FAILURE));
        }
        if edited == self.original && self.is_done() {
            return Ok(Outcome::Done(self.nothing_to_do()));
        }
        // It is kept, and defined, without the comment.
        draft.write(&edited)?;
        round.xml = edited;
        if let Some(failure) = self.check(&round.xml) {
            return Ok(Outcome::Failed(failure));
        }
        match self.define(draft, true) {
            Ok(code) => Ok(Outcome::Done(code)),
            Err(error) => Ok(Outcome::Failed(report::failure(&error))),
        }
    }

    /// Shows what is wrong and asks, until the domain is defined by force, or is to be edited again, or
    /// not at all.
    fn settle(&mut self, draft: &Draft, mut failure: String) -> Result<Settled, VivmError> {
        loop {
            eprintln!("{}", failure.trim_end());
            match draft.ask()? {
                Answer::Again => return Ok(Settled::Again(failure)),
                Answer::No => return Ok(Settled::GivenUp),
                Answer::Force => match self.define(draft, false) {
                    Ok(_) => return Ok(Settled::Defined),
                    Err(error) => failure = report::failure(&error),
                },
            }
        }
    }

    /// What xenner would not take in this document, if anything. The emulator and the kernel are what the
    /// person has written by now.
    fn check(&self, edited: &str) -> Option<String> {
        match converted(self.args, edited, &Wishes::default()) {
            Err(error) => Some(report::failure(&error)),
            Ok(conversion) if conversion.xml == edited && conversion.decisions.is_empty() => None,
            Ok(conversion) => {
                Some(report::lines(&conversion).replacen("Changed:", "To be changed:", 1))
            }
        }
    }
}

/// What goes into the editor.
struct Round {
    xml: String,
    report: String,
    /// Why it is there again.
    problem: Option<String>,
}

/// What came of it.
enum Outcome {
    Done(ExitCode),
    /// It could not be defined, and this is why.
    Failed(String),
}

/// What came of a document that could not be defined.
enum Settled {
    Defined,
    Again(String),
    GivenUp,
}
