//! The syntax tree: what the parser makes of a script. Every node that an error may point at carries its span.

use herdsman_formats::types::SqlType;

/// A range of bytes in the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub(crate) fn to(self, other: Span) -> Span {
        Span { start: self.start, end: other.end.max(self.end) }
    }
}

/// A resolved identifier (upper case unless it was quoted) and its place.
#[derive(Debug, Clone, Eq)]
pub(crate) struct Name {
    pub text: String,
    pub span: Span,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    IsDistinctFrom,
    IsNotDistinctFrom,
}

/// An expression. Two are equal when they mean the same text, wherever they stand.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub kind: ExprKind,
    pub span: Span,
    /// Levels below and with this one.
    pub depth: usize,
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ExprKind {
    Null,
    Boolean(bool),
    Integer(i32),
    Long(i64),
    /// Digits as written: the scale counts.
    Decimal(String),
    Double(f64),
    String(String),
    Column {
        qualifier: Option<String>,
        name: String,
    },
    Cast {
        input: Box<Expr>,
        ty: TypeName,
    },
    Arithmetic {
        op: Arithmetic,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `a || b`: prints as `+` in ksqlDB.
    Negate(Box<Expr>),
    Compare {
        op: Comparison,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull {
        input: Box<Expr>,
        negated: bool,
    },
    Between {
        input: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    In {
        input: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    Like {
        input: Box<Expr>,
        pattern: Box<Expr>,
        escape: Option<char>,
        negated: bool,
    },
    Case {
        operand: Option<Box<Expr>>,
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    /// `COUNT(*)` has no arguments here and `star` set.
    Call {
        name: String,
        args: Vec<Expr>,
        star: bool,
    },
    Lambda {
        params: Vec<String>,
        body: Box<Expr>,
    },
    /// A unit such as DAYS, the first argument of DATEADD.
    IntervalUnit(String),
    Subscript {
        input: Box<Expr>,
        index: Box<Expr>,
    },
    Field {
        input: Box<Expr>,
        name: String,
    },
    /// `struct->*`, only as a select item.
    AllFields(Box<Expr>),
    Array(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Struct(Vec<(String, Expr)>),
}

/// A type as written: built in, or the name of a custom type (CREATE TYPE).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TypeName {
    Built(SqlType),
    Array(Box<TypeName>),
    Map(Box<TypeName>, Box<TypeName>),
    Struct(Vec<(String, TypeName)>),
    Custom(Name),
}

/// A value in a WITH clause.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PropertyValue {
    String(String),
    Integer(i64),
    Decimal(String),
    Boolean(bool),
}

impl PropertyValue {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::String(text) | Self::Decimal(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(flag) => flag.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub name: String,
    pub value: PropertyValue,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ElementRole {
    Value,
    Key,
    PrimaryKey,
    Headers,
    Header(String),
}

/// A column of CREATE STREAM | TABLE.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Element {
    pub name: Name,
    pub ty: TypeName,
    pub role: ElementRole,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SelectItem {
    /// `*` or `alias.*`
    All {
        qualifier: Option<Name>,
        span: Span,
    },
    Single {
        expr: Expr,
        alias: Option<Name>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Outer,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourceRef {
    pub name: Name,
    pub alias: Option<Name>,
}

/// WITHIN of a stream-stream join, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Within {
    pub before_ms: i64,
    pub after_ms: i64,
    pub grace_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Join {
    pub kind: JoinKind,
    pub source: SourceRef,
    pub within: Option<Within>,
    pub on: Expr,
    pub span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowKind {
    Tumbling { size_ms: i64 },
    Hopping { size_ms: i64, advance_ms: i64 },
    Session { gap_ms: i64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub kind: WindowKind,
    pub retention_ms: Option<i64>,
    pub grace_ms: Option<i64>,
    pub span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emit {
    Changes,
    Final,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    pub items: Vec<SelectItem>,
    pub from: SourceRef,
    pub joins: Vec<Join>,
    pub window: Option<Window>,
    pub filter: Option<Expr>,
    pub partition_by: Option<Vec<Expr>>,
    pub group_by: Option<Vec<Expr>>,
    pub having: Option<Expr>,
    pub emit: Option<Emit>,
    /// Our extension, pull queries only: expression and whether descending.
    pub order_by: Vec<(Expr, bool)>,
    pub limit: Option<i64>,
    pub offset: Option<i64>,
    pub span: Span,
}

/// Which objects a SHOW | LIST asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Show {
    Properties,
    Topics { all: bool, extended: bool },
    Streams { extended: bool },
    Tables { extended: bool },
    Functions,
    Connectors(Option<String>),
    ConnectorPlugins,
    Types,
    Variables,
    Queries { extended: bool },
}

/// One id or all queries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    One(Name),
    All,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StatementKind {
    CreateSource {
        table: bool,
        or_replace: bool,
        read_only: bool,
        if_not_exists: bool,
        name: Name,
        elements: Vec<Element>,
        with: Vec<Property>,
    },
    CreateAs {
        table: bool,
        or_replace: bool,
        if_not_exists: bool,
        name: Name,
        with: Vec<Property>,
        query: Query,
    },
    InsertInto {
        target: Name,
        with: Vec<Property>,
        query: Query,
    },
    InsertValues {
        target: Name,
        columns: Vec<Name>,
        values: Vec<Expr>,
    },
    Query(Query),
    AlterSource {
        table: bool,
        name: Name,
        columns: Vec<(Name, TypeName)>,
    },
    DropSource {
        table: bool,
        name: Name,
        if_exists: bool,
        delete_topic: bool,
    },
    CreateType {
        name: Name,
        ty: TypeName,
        if_not_exists: bool,
    },
    DropType {
        name: Name,
        if_exists: bool,
    },
    CreateConnector {
        source: bool,
        name: Name,
        if_not_exists: bool,
        with: Vec<Property>,
    },
    DropConnector {
        name: Name,
        if_exists: bool,
    },
    Show(Show),
    Describe {
        name: Name,
        extended: bool,
    },
    DescribeAll {
        tables: bool,
        extended: bool,
    },
    DescribeFunction(String),
    DescribeConnector(Name),
    ExplainQuery(Name),
    ExplainStatement(Box<Statement>),
    Print {
        topic: Name,
        from_beginning: bool,
        interval: Option<i64>,
        limit: Option<i64>,
    },
    Terminate(Target),
    Pause(Target),
    Resume(Target),
    Set {
        name: String,
        value: String,
    },
    Unset(String),
    AlterSystem {
        name: String,
        value: String,
    },
    Define {
        name: String,
        value: String,
    },
    Undefine(String),
    AssertTopic {
        name: Name,
        not_exists: bool,
    },
    AssertSchema {
        not_exists: bool,
    },
}

/// A statement, its place in the script and its text (with the semicolon).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Statement {
    pub kind: StatementKind,
    pub span: Span,
    pub text: String,
}

impl Expr {
    pub(crate) fn new(kind: ExprKind, span: Span) -> Self {
        let mut expr = Self { kind, span, depth: 1 };
        expr.depth += expr.children().iter().map(|child| child.depth).max().unwrap_or(0);
        expr
    }

    /// Calls `visit` on this expression and then on its children, until `visit` says not to go deeper.
    pub(crate) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr) -> bool) {
        if visit(self) {
            for child in self.children() {
                child.walk(visit);
            }
        }
    }

    /// Direct subexpressions, left to right.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            ExprKind::Cast { input, .. }
            | ExprKind::Negate(input)
            | ExprKind::Not(input)
            | ExprKind::IsNull { input, .. }
            | ExprKind::Field { input, .. }
            | ExprKind::AllFields(input) => vec![input],
            ExprKind::Lambda { body, .. } => vec![body],
            ExprKind::Arithmetic { left, right, .. } | ExprKind::Compare { left, right, .. } => {
                vec![left, right]
            }
            ExprKind::And(left, right) | ExprKind::Or(left, right) => vec![left, right],
            ExprKind::Between { input, low, high, .. } => vec![input, low, high],
            ExprKind::In { input, list, .. } => std::iter::once(&**input).chain(list).collect(),
            ExprKind::Like { input, pattern, .. } => vec![input, pattern],
            ExprKind::Case { operand, branches, otherwise } => operand
                .iter()
                .map(|operand| &**operand)
                .chain(branches.iter().flat_map(|(when, then)| [when, then]))
                .chain(otherwise.iter().map(|otherwise| &**otherwise))
                .collect(),
            ExprKind::Call { args, .. } | ExprKind::Array(args) => args.iter().collect(),
            ExprKind::Subscript { input, index } => vec![input, index],
            ExprKind::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
            ExprKind::Struct(fields) => fields.iter().map(|(_, value)| value).collect(),
            _ => Vec::new(),
        }
    }

    /// Direct subexpressions, to be changed in place.
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Expr> {
        match &mut self.kind {
            ExprKind::Cast { input, .. }
            | ExprKind::Negate(input)
            | ExprKind::Not(input)
            | ExprKind::IsNull { input, .. }
            | ExprKind::Field { input, .. }
            | ExprKind::AllFields(input) => vec![input],
            ExprKind::Lambda { body, .. } => vec![body],
            ExprKind::Arithmetic { left, right, .. } | ExprKind::Compare { left, right, .. } => {
                vec![left, right]
            }
            ExprKind::And(left, right) | ExprKind::Or(left, right) => vec![left, right],
            ExprKind::Between { input, low, high, .. } => vec![input, low, high],
            ExprKind::In { input, list, .. } => std::iter::once(&mut **input).chain(list).collect(),
            ExprKind::Like { input, pattern, .. } => vec![input, pattern],
            ExprKind::Case { operand, branches, otherwise } => operand
                .iter_mut()
                .map(|operand| &mut **operand)
                .chain(branches.iter_mut().flat_map(|(when, then)| [when, then]))
                .chain(otherwise.iter_mut().map(|otherwise| &mut **otherwise))
                .collect(),
            ExprKind::Call { args, .. } | ExprKind::Array(args) => args.iter_mut().collect(),
            ExprKind::Subscript { input, index } => vec![input, index],
            ExprKind::Map(entries) => entries.iter_mut().flat_map(|(key, value)| [key, value]).collect(),
            ExprKind::Struct(fields) => fields.iter_mut().map(|(_, value)| value).collect(),
            _ => Vec::new(),
        }
    }
}
