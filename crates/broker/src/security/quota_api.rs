//! DescribeClientQuotas and AlterClientQuotas (KIP-546).

use std::collections::BTreeMap;

use herdsman_wire::kafka_protocol::messages::alter_client_quotas_request::{
    EntityData as AskedEntity, EntryData as AskedEntry,
};
use herdsman_wire::kafka_protocol::messages::alter_client_quotas_response::{
    EntityData as AnsweredEntity, EntryData as AnsweredEntry,
};
use herdsman_wire::kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use herdsman_wire::kafka_protocol::messages::describe_client_quotas_response::{
    EntityData, EntryData, ValueData,
};
use herdsman_wire::kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use super::quota::{Entity, KEYS, Part};
use crate::{Broker, BrokerError};

const USER: &str = "user";
const CLIENT: &str = "client-id";
/// Match types of a filter.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const ANY: i8 = 2;

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

fn unlimited(kind: &str) -> BrokerError {
    BrokerError::InvalidRequest(format!("no quotas for {kind} here: user and client-id have some"))
}

fn entity(parts: &[AskedEntity]) -> Result<Entity, BrokerError> {
    let mut entity = Entity::default();
    for part in parts {
        let place = match part.entity_type.as_str() {
            USER => &mut entity.user,
            CLIENT => &mut entity.client,
            other => return Err(unlimited(other)),
        };
        let named = match &part.entity_name {
            None => Part::Default,
            Some(name) if name.is_empty() => {
                return Err(BrokerError::InvalidRequest(format!("an empty {}", part.entity_type.as_str())));
            }
            Some(name) => Part::Named(name.to_string()),
        };
        if place.replace(named).is_some() {
            let said = format!("{} is named twice", part.entity_type.as_str());
            return Err(BrokerError::InvalidRequest(said));
        }
    }
    if entity == Entity::default() {
        return Err(BrokerError::InvalidRequest("a quota needs a user or a client-id".to_owned()));
    }
    Ok(entity)
}

/// A quota and its value; `None` removes it.
type Change = (String, Option<f64>);

/// The changes of one entity.
fn changes(entry: &AskedEntry) -> Result<(Entity, Vec<Change>), BrokerError> {
    let entity = entity(&entry.entity)?;
    let mut changes = Vec::new();
    for op in &entry.ops {
        let key = op.key.as_str();
        if !KEYS.contains(&key) {
            let said = format!("quota {key} is not enforced here: {} are", KEYS.join(", "));
            return Err(BrokerError::InvalidRequest(said));
        }
        if !(op.remove || op.value.is_finite() && op.value > 0.0) {
            return Err(BrokerError::InvalidRequest(format!("{key} of {}: it must be above 0", op.value)));
        }
        if changes.iter().any(|(before, _)| before == key) {
            return Err(BrokerError::InvalidRequest(format!("{key} is set twice")));
        }
        changes.push((key.to_owned(), (!op.remove).then_some(op.value)));
    }
    Ok((entity, changes))
}

impl Broker {
    pub(crate) fn on_alter_quotas(&self, request: AlterClientQuotasRequest) -> AlterClientQuotasResponse {
        let asked: Vec<_> = request.entries.iter().map(changes).collect();
        let kept = if request.validate_only {
            Ok(())
        } else {
            self.security.change(|records| {
                for (entity, changes) in asked.iter().flatten() {
                    let values = records.quotas.entry(entity.clone()).or_default();
                    for (key, value) in changes {
                        match value {
                            Some(value) => drop(values.insert(key.clone(), *value)),
                            None => drop(values.remove(key)),
                        }
                    }
                }
                records.quotas.retain(|_, values| !values.is_empty());
            })
        };
        let entries = request.entries.into_iter().zip(&asked).map(|(entry, asked)| {
            let parts = entry.entity.into_iter().map(|part| {
                AnsweredEntity::default()
                    .with_entity_type(part.entity_type)
                    .with_entity_name(part.entity_name)
            });
            let answer = AnsweredEntry::default().with_entity(parts.collect());
            match asked.as_ref().err().or(kept.as_ref().err()) {
                None => answer,
                Some(error) => {
                    answer.with_error_code(error.code()).with_error_message(Some(text(error.to_string())))
                }
            }
        });
        AlterClientQuotasResponse::default().with_entries(entries.collect())
    }

    pub(crate) fn on_describe_quotas(
        &self,
        request: &DescribeClientQuotasRequest,
    ) -> DescribeClientQuotasResponse {
        let response = DescribeClientQuotasResponse::default();
        let mut filters: BTreeMap<&str, &ComponentData> = BTreeMap::new();
        for component in &request.components {
            let kind = component.entity_type.as_str();
            let refusal = if ![USER, CLIENT].contains(&kind) {
                Some(unlimited(kind))
            } else if !(EXACT..=ANY).contains(&component.match_type) {
                Some(BrokerError::InvalidRequest(format!("no match type {}", component.match_type)))
            } else if filters.insert(kind, component).is_some() {
                Some(BrokerError::InvalidRequest(format!("{kind} is asked for twice")))
            } else {
                None
            };
            if let Some(error) = refusal {
                return response
                    .with_error_code(error.code())
                    .with_error_message(Some(text(error.to_string())))
                    .with_entries(None);
            }
        }
        let takes = |kind: &str, part: Option<&Part>| match (filters.get(kind), part) {
            (None, Some(_)) => !request.strict,
            (None, None) => true,
            (Some(_), None) => false,
            (Some(filter), Some(part)) => match (filter.match_type, part) {
                (EXACT, Part::Named(name)) => filter._match.as_deref() == Some(name.as_str()),
                (DEFAULT, part) => *part == Part::Default,
                (EXACT, Part::Default) => false,
                _ => true,
            },
        };
        let records = self.security.records();
        let entries = records
            .quotas
            .iter()
            .filter(|(entity, _)| takes(USER, entity.user.as_ref()) && takes(CLIENT, entity.client.as_ref()))
            .map(|(entity, values)| {
                let values = values
                    .iter()
                    .map(|(key, value)| ValueData::default().with_key(text(key.as_str())).with_value(*value));
                EntryData::default().with_entity(described(entity)).with_values(values.collect())
            });
        response.with_entries(Some(entries.collect()))
    }
}

fn described(entity: &Entity) -> Vec<EntityData> {
    [(USER, &entity.user), (CLIENT, &entity.client)]
        .into_iter()
        .filter_map(|(kind, part)| {
            let name = match part.as_ref()? {
                Part::Default => None,
                Part::Named(name) => Some(text(name.as_str())),
            };
            Some(
                EntityData::default()
                    .with_entity_type(StrBytes::from_static_str(kind))
                    .with_entity_name(name),
            )
        })
        .collect()
}
