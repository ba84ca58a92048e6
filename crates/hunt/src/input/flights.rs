//! The shipped input: 336,776 real flights of 2013 (CC0, see `data/README.md`), turned into check-ins.
//!
//! Each flight that left is a `depart` check-in at its origin, each that landed a `land` check-in at its
//! destination. Event time is the schedule, arrival order is the actual time, ties by event id. The event id is
//! made of the flight itself, so a replayed flight has the same id.

use std::fmt::Write as _;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int64Array, StringArray, StringBuilder,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Events, Input, InputError};

static FLIGHTS: &[u8] = include_bytes!("../../data/flights.parquet");
static PLANES: &[u8] = include_bytes!("../../data/planes.parquet");
static AIRPORTS: &[u8] = include_bytes!("../../data/airports.parquet");

const MINUTE_MS: i64 = 60_000;

/// An airport.
#[derive(Debug, Clone, PartialEq)]
pub struct Airport {
    /// FAA code.
    pub code: String,
    /// Name.
    pub name: String,
    /// Latitude, degrees.
    pub lat: f64,
    /// Longitude, degrees.
    pub lon: f64,
}

/// An aircraft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// Tail number.
    pub tail: String,
    /// Manufacturer and model.
    pub model: String,
    /// Seats.
    pub seats: i32,
    /// Year of construction, if known.
    pub built: Option<i32>,
}

/// The four destinations that the airports table lacks (Puerto Rico and the Virgin Islands; positions from the
/// airports' public reference points).
const MISSING_AIRPORTS: [(&str, &str, f64, f64); 4] = [
    ("BQN", "Rafael Hernandez", 18.494_9, -67.129_4),
    ("PSE", "Mercedita", 18.008_3, -66.563),
    ("SJU", "Luis Munoz Marin Intl", 18.439_4, -66.001_8),
    ("STT", "Cyril E King", 18.337_3, -64.973_4),
];

fn read(bytes: &'static [u8], file: &str) -> Result<RecordBatch, InputError> {
    let failed = |reason: String| InputError::Read { file: file.to_owned(), reason };
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from_static(bytes))
        .and_then(|builder| builder.with_batch_size(1 << 20).build())
        .map_err(|error| failed(error.to_string()))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
    let first = batches.first().ok_or_else(|| InputError::Empty(file.to_owned()))?;
    concat_batches(&first.schema(), &batches).map_err(|error| failed(error.to_string()))
}

fn column<'a>(table: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, InputError> {
    table
        .column_by_name(name)
        .ok_or_else(|| InputError::Read { file: "shipped data".into(), reason: format!("no column {name}") })
}

fn text(table: &RecordBatch, name: &str) -> Result<StringArray, InputError> {
    let cast = arrow::compute::cast(column(table, name)?, &arrow::datatypes::DataType::Utf8)
        .map_err(|error| InputError::Read { file: "shipped data".into(), reason: error.to_string() })?;
    Ok(cast.as_string::<i32>().clone())
}

/// All airports, the four missing ones included.
pub fn airports() -> Result<Vec<Airport>, InputError> {
    let table = read(AIRPORTS, "airports.parquet")?;
    let (codes, names) = (text(&table, "faa")?, text(&table, "name")?);
    let lat = column(&table, "lat")?.as_primitive::<Float64Type>().clone();
    let lon = column(&table, "lon")?.as_primitive::<Float64Type>().clone();
    let listed = (0..table.num_rows()).map(|row| Airport {
        code: codes.value(row).to_owned(),
        name: names.value(row).to_owned(),
        lat: lat.value(row),
        lon: lon.value(row),
    });
    let missing = MISSING_AIRPORTS.iter().map(|&(code, name, lat, lon)| Airport {
        code: code.to_owned(),
        name: name.to_owned(),
        lat,
        lon,
    });
    Ok(listed.chain(missing).collect())
}

/// All planes.
pub fn planes() -> Result<Vec<Plane>, InputError> {
    let table = read(PLANES, "planes.parquet")?;
    let (tails, makers, models) =
        (text(&table, "tailnum")?, text(&table, "manufacturer")?, text(&table, "model")?);
    let seats = column(&table, "seats")?.as_primitive::<Int64Type>().clone();
    let built = column(&table, "year")?.as_primitive::<Int32Type>().clone();
    Ok((0..table.num_rows())
        .map(|row| Plane {
            tail: tails.value(row).to_owned(),
            model: format!("{} {}", makers.value(row), models.value(row)),
            seats: i32::try_from(seats.value(row)).unwrap_or(i32::MAX),
            built: built.is_valid(row).then(|| built.value(row)),
        })
        .collect())
}

/// The season of 2013 in arrival order, held as columns in memory (about 60 MB).
pub struct Flights {
    season: Events,
    at: usize,
}

struct CheckIn {
    row: u32,
    land: bool,
    scheduled: i64,
    actual: i64,
}

impl Flights {
    /// Reads and orders the shipped flights.
    pub fn open() -> Result<Self, InputError> {
        let table = read(FLIGHTS, "flights.parquet")?;
        let check_ins = check_ins(&table)?;
        Ok(Self { season: columns(&table, &check_ins)?, at: 0 })
    }

    /// Number of check-ins of the season.
    #[must_use]
    pub fn len(&self) -> usize {
        self.season.len()
    }

    /// Whether the season is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.season.is_empty()
    }
}

/// Departures and landings that happened, ordered by actual time, then flight row, departure first.
fn check_ins(table: &RecordBatch) -> Result<Vec<CheckIn>, InputError> {
    let int32 = |name: &str| column(table, name).map(|array| array.as_primitive::<Int32Type>().clone());
    let int64 = |name: &str| column(table, name).map(|array| array.as_primitive::<Int64Type>().clone());
    let (dep_delay, arr_delay) = (int32("dep_delay")?, int32("arr_delay")?);
    let (sched_dep, sched_arr) = (int64("sched_dep_ms")?, int64("sched_arr_ms")?);
    let tails = column(table, "tailnum")?;
    let mut all = Vec::with_capacity(table.num_rows() * 2);
    for row in 0..table.num_rows() {
        let index = u32::try_from(row).unwrap_or(u32::MAX);
        if tails.is_null(row) {
            continue;
        }
        for (land, delay, scheduled) in [(false, &dep_delay, &sched_dep), (true, &arr_delay, &sched_arr)] {
            if delay.is_valid(row) {
                let scheduled = scheduled.value(row);
                let actual = scheduled + i64::from(delay.value(row)) * MINUTE_MS;
                all.push(CheckIn { row: index, land, scheduled, actual });
            }
        }
    }
    all.sort_by_key(|check_in| (check_in.actual, check_in.row, check_in.land));
    Ok(all)
}

fn columns(table: &RecordBatch, check_ins: &[CheckIn]) -> Result<Events, InputError> {
    let (carriers, tails) = (text(table, "carrier")?, text(table, "tailnum")?);
    let (origins, destinations) = (text(table, "origin")?, text(table, "dest")?);
    let numbers = column(table, "flight")?.as_primitive::<Int32Type>().clone();
    let date = ["year", "month", "day", "sched_dep_time"]
        .map(|name| column(table, name).map(|array| array.as_primitive::<Int32Type>().clone()));
    let [year, month, day, time] = date;
    let (year, month, day, time) = (year?, month?, day?, time?);
    let positions: std::collections::HashMap<String, (f64, f64)> =
        airports()?.into_iter().map(|airport| (airport.code, (airport.lat, airport.lon))).collect();
    let mut text_columns: [StringBuilder; 5] = std::array::from_fn(|_| StringBuilder::new());
    let (mut lat, mut lon) = (Float64Builder::new(), Float64Builder::new());
    let mut id = String::new();
    for check_in in check_ins {
        let row = check_in.row as usize;
        let place = if check_in.land { destinations.value(row) } else { origins.value(row) };
        id.clear();
        let _ = write!(
            id,
            "{}{}-{}{:02}{:02}{:04}-{}-{}",
            carriers.value(row),
            numbers.value(row),
            year.value(row),
            month.value(row),
            day.value(row),
            time.value(row),
            origins.value(row),
            if check_in.land { 'A' } else { 'D' },
        );
        let kind = if check_in.land { "land" } else { "depart" };
        let texts = [id.as_str(), tails.value(row), carriers.value(row), place, kind];
        for (builder, value) in text_columns.iter_mut().zip(texts) {
            builder.append_value(value);
        }
        let position = positions.get(place);
        lat.append_option(position.map(|(lat, _)| *lat));
        lon.append_option(position.map(|(_, lon)| *lon));
    }
    let [event_id, player, hunt, place, kind] = text_columns.map(|mut builder| builder.finish());
    Ok(Events {
        event_id,
        player,
        hunt,
        place,
        kind,
        scheduled: check_ins.iter().map(|check_in| check_in.scheduled).collect::<Int64Array>(),
        actual: check_ins.iter().map(|check_in| check_in.actual).collect::<Int64Array>(),
        lat: Float64Array::from(lat.finish()),
        lon: Float64Array::from(lon.finish()),
        rejected: Vec::new(),
    })
}

impl Input for Flights {
    fn next(&mut self, rows: usize) -> Result<Events, InputError> {
        let len = rows.min(self.season.len() - self.at);
        let events = self.season.slice(self.at, len);
        self.at += len;
        Ok(events)
    }

    fn seek(&mut self, row: u64) -> Result<(), InputError> {
        self.at = usize::try_from(row).unwrap_or(usize::MAX).min(self.season.len());
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at as u64
    }

    fn rows_total(&self) -> Option<u64> {
        Some(self.season.len() as u64)
    }

    fn describe(&self) -> String {
        "336,776 flights from New York, 2013".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_season_is_in_actual_order_with_unique_ids_and_known_places() {
        let mut flights = Flights::open().unwrap();
        assert_eq!(flights.len(), 655_867);
        let all = flights.next(usize::MAX).unwrap();
        assert!(all.actual.values().windows(2).all(|pair| pair[0] <= pair[1]));
        let ids: HashSet<&str> = all.event_id.iter().flatten().collect();
        assert_eq!(ids.len(), 655_867);
        assert_eq!((all.lat.null_count(), all.lon.null_count()), (0, 0));
        let late = all.scheduled.values().iter().zip(all.actual.values()).filter(|(s, a)| a > s).count();
        assert!(late > 200_000, "{late} check-ins after their schedule");
        assert!(flights.next(1).unwrap().is_empty());
    }

    #[test]
    fn planes_and_airports_are_whole() {
        assert_eq!(planes().unwrap().len(), 3_322);
        assert_eq!(airports().unwrap().len(), 1_458 + 4);
    }
}
