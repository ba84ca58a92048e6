//! DROP STREAM | TABLE | TYPE, ASSERT TOPIC.

use super::{Context, Engine, Entity, State, status, warning};
use crate::ast::Name;
use crate::diagnostic::SqlError;

impl Engine {
    pub(super) fn drop_source(
        &self,
        state: &mut State,
        context: &Context<'_>,
        table: bool,
        name: &Name,
        if_exists: bool,
        delete_topic: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        let word = if table { "Table" } else { "Stream" };
        let Some(source) = state.catalog.sources.get(&name.text).cloned() else {
            let message = format!("{word} {} does not exist.", name.text);
            return if if_exists {
                Ok(vec![warning(context, message)])
            } else {
                Err(state.catalog.missing(name, &message))
            };
        };
        if source.table != table {
            return Err(SqlError::statement(format!(
                "Incompatible data source type is {}, but statement was DROP {}",
                source.kind(),
                word.to_uppercase()
            ))
            .at(name.span));
        }
        let others = |id: &String| source.created_by.as_ref() != Some(id);
        let readers: Vec<&str> = state
            .queries
            .values()
            .filter(|query| query.sources.contains(&name.text))
            .map(|query| query.id.as_str())
            .collect();
        let writers: Vec<&str> = state
            .queries
            .values()
            .filter(|query| query.sink == name.text && others(&query.id))
            .map(|query| query.id.as_str())
            .collect();
        if !readers.is_empty() || !writers.is_empty() {
            return Err(SqlError::statement(format!(
                "Cannot drop {}.\nThe following queries read from this source: [{}].\nThe following queries write into this source: [{}].\nYou need to terminate them before dropping {}.",
                name.text,
                readers.join(", "),
                writers.join(", "),
                name.text
            ))
            .at(name.span));
        }
        let sequence = self.log_command(state, context, "drop")?;
        if let Some(id) = &source.created_by {
            self.stop_query(state, id)?;
        }
        if delete_topic && !state.replaying && !source.topic.is_empty() && !source.read_only {
            match self.inner.bus.delete_topic(&source.topic) {
                Ok(()) | Err(herdsman_bus::BusError::UnknownTopic(_)) => {}
                Err(error) => return Err(SqlError::environment(error)),
            }
        }
        state.catalog.sources.remove(&name.text);
        let message = format!("Source `{}` (topic: {}) was dropped.", name.text, source.topic);
        let id = format!("{}/`{}`/drop", word.to_lowercase(), name.text);
        Ok(vec![status(context, &id, &message, None, sequence)])
    }

    pub(super) fn drop_type(
        &self,
        state: &mut State,
        context: &Context<'_>,
        name: &Name,
        if_exists: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        if !state.catalog.types.contains_key(&name.text) {
            let message = format!("Type {} does not exist.", name.text);
            return if if_exists {
                Ok(vec![warning(context, message)])
            } else {
                Err(SqlError::statement(message).at(name.span))
            };
        }
        let sequence = self.log_command(state, context, "type")?;
        state.catalog.types.remove(&name.text);
        let message = format!("Dropped type '{}'", name.text);
        Ok(vec![status(context, &format!("type/{}/drop", name.text), &message, None, sequence)])
    }

    pub(super) fn assert_topic(
        &self,
        context: &Context<'_>,
        name: &Name,
        not_exists: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        let exists = self.topic_partitions(&name.text)?.is_some();
        if exists == not_exists {
            let state = if exists { "exists" } else { "does not exist" };
            return Err(SqlError {
                code: 41700,
                ..SqlError::statement(format!("Topic {} {state}", name.text))
            });
        }
        Ok(vec![Entity::AssertTopic {
            statement_text: context.statement.text.clone(),
            topic_name: name.text.clone(),
            exists,
            warnings: Vec::new(),
        }])
    }
}
