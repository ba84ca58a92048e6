-- The treasure hunt, in public SQL. Copy it, change it, run it with: herdsman sql -f hunt.sql
--
-- A check-in is keyed by its hunt (a carrier's fleet), so one fleet's events stay in order in one partition.
-- Event time is the scheduled time; check-ins arrive in the order of their actual time, so late is really late.

CREATE STREAM checkins (
  hunt VARCHAR KEY, event_id VARCHAR, player VARCHAR, place VARCHAR, kind VARCHAR,
  scheduled BIGINT, actual BIGINT, lat DOUBLE, lon DOUBLE
) WITH (KAFKA_TOPIC = 'checkins', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON', TIMESTAMP = 'scheduled');

-- The same topic on the actual clock: claims are settled by what really happened first.
CREATE STREAM landings (
  hunt VARCHAR KEY, event_id VARCHAR, player VARCHAR, place VARCHAR, kind VARCHAR,
  scheduled BIGINT, actual BIGINT, lat DOUBLE, lon DOUBLE
) WITH (KAFKA_TOPIC = 'checkins', KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON', TIMESTAMP = 'actual');

-- What stands behind the guard: the legacy cache, and the system of record behind that.
CREATE TABLE treasures (id VARCHAR PRIMARY KEY, dropped BIGINT, points BIGINT)
  WITH (CACHE = 'legacy', KEY_PATTERN = 'treasure:{id}', VALUE_FORMAT = 'JSON');
CREATE TABLE players (id VARCHAR PRIMARY KEY, model VARCHAR, seats INTEGER, built INTEGER)
  WITH (CACHE = 'legacy', KEY_PATTERN = 'player:{id}', VALUE_FORMAT = 'JSON');

CREATE TABLE places (place VARCHAR PRIMARY KEY, name VARCHAR, lat DOUBLE, lon DOUBLE)
  WITH (KAFKA_TOPIC = 'places', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON');

-- How each hunt moves, every three hours over the last six. Its grace is short: this is where late events show.
CREATE TABLE tempo WITH (KAFKA_TOPIC = 'tempo', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON') AS
  SELECT hunt,
         COUNT(*) AS checkins,
         AVG((actual - scheduled) / 60000) AS delay_minutes,
         MAX(actual - scheduled) / 60000 AS worst_minutes,
         LATEST_BY_OFFSET(place) AS last_place
  FROM checkins
  WINDOW HOPPING (SIZE 6 HOURS, ADVANCE BY 3 HOURS, GRACE PERIOD 30 MINUTES)
  GROUP BY hunt
  EMIT CHANGES;

-- A treasure belongs to the earliest actual landing at its place on its day, ties by event id. The smallest
-- 'time|event|player|hunt' is the same whatever the order of arrival, the partitions or the batches.
-- While the day is open a pull query on CLAIMS shows its provisional holder; when the day and its grace have passed
-- the claim is settled: written once.
CREATE TABLE claims WITH (KAFKA_TOPIC = 'claims', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON') AS
  SELECT t.id AS treasure,
         AS_VALUE(t.id) AS treasure_id,
         MIN(CAST(l.actual AS STRING) + '|' + l.event_id + '|' + l.player + '|' + l.hunt) AS winner,
         MAX(t.points) AS points,
         COUNT(*) AS rivals
  FROM landings l JOIN treasures t ON CAST(l.actual / 86400000 AS STRING) + ':' + l.place = t.id
  WINDOW TUMBLING (SIZE 1 DAY, GRACE PERIOD 2 HOURS)
  WHERE l.kind = 'land' AND l.actual >= t.dropped
  GROUP BY t.id
  EMIT FINAL;

-- The settled claims as a stream, with the names of their places.
CREATE STREAM settled (treasure_id VARCHAR, winner VARCHAR, points BIGINT, rivals BIGINT)
  WITH (KAFKA_TOPIC = 'claims', VALUE_FORMAT = 'JSON');

CREATE STREAM claimed WITH (KAFKA_TOPIC = 'claimed', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON') AS
  SELECT SPLIT(s.treasure_id, ':')[2] AS place,
         s.treasure_id AS treasure,
         CAST(SPLIT(s.winner, '|')[1] AS BIGINT) AS claimed_at,
         SPLIT(s.winner, '|')[2] AS event_id,
         SPLIT(s.winner, '|')[3] AS player,
         SPLIT(s.winner, '|')[4] AS hunt,
         s.points AS points,
         s.rivals AS rivals,
         p.name AS place_name
  FROM settled s LEFT JOIN places p ON SPLIT(s.treasure_id, ':')[2] = p.place
  EMIT CHANGES;

-- A clue is solved by checking in at three places of one region (15 degrees of longitude) within a week.
CREATE TABLE clues WITH (KAFKA_TOPIC = 'clues', PARTITIONS = 4, KEY_FORMAT = 'JSON', VALUE_FORMAT = 'JSON') AS
  SELECT hunt, player,
         CAST(FLOOR((lon + 180.0) / 15.0) AS INTEGER) AS region,
         AS_VALUE(hunt) AS fleet,
         AS_VALUE(player) AS solver,
         COUNT_DISTINCT(place) AS places
  FROM checkins
  WINDOW TUMBLING (SIZE 7 DAYS, GRACE PERIOD 1 DAY)
  GROUP BY hunt, player, CAST(FLOOR((lon + 180.0) / 15.0) AS INTEGER)
  HAVING COUNT_DISTINCT(place) >= 3
  EMIT FINAL;

CREATE STREAM solved (fleet VARCHAR, solver VARCHAR, places BIGINT)
  WITH (KAFKA_TOPIC = 'clues', VALUE_FORMAT = 'JSON');

-- A round is a player's week. Fair play: nobody is in two places within one half hour. A player seen at more
-- (place, half hour) pairs than half hours was, and that round scores nothing.
CREATE TABLE rounds WITH (KAFKA_TOPIC = 'rounds', PARTITIONS = 4, KEY_FORMAT = 'JSON', VALUE_FORMAT = 'JSON') AS
  SELECT hunt, player,
         AS_VALUE(hunt) AS fleet,
         AS_VALUE(player) AS runner,
         COUNT(*) AS steps,
         SUM(CASE WHEN actual <= scheduled + 900000 THEN 1 ELSE 0 END) AS on_time,
         COUNT_DISTINCT(actual / 1800000) AS moments,
         COUNT_DISTINCT(place + '@' + CAST(actual / 1800000 AS STRING)) AS sightings
  FROM checkins
  WINDOW TUMBLING (SIZE 7 DAYS, GRACE PERIOD 1 DAY)
  GROUP BY hunt, player
  EMIT FINAL;

CREATE STREAM rounds_over (fleet VARCHAR, runner VARCHAR, steps BIGINT, on_time BIGINT, moments BIGINT, sightings BIGINT)
  WITH (KAFKA_TOPIC = 'rounds', VALUE_FORMAT = 'JSON');

CREATE STREAM fouls WITH (KAFKA_TOPIC = 'fouls', PARTITIONS = 4, VALUE_FORMAT = 'JSON') AS
  SELECT fleet, runner, moments, sightings FROM rounds_over WHERE sightings > moments EMIT CHANGES;

-- Points: a treasure's own, five for a clue, one for each check-in of a fair round and one more if it was on
-- time; small aircraft (fewer than 60 seats, looked up through the guard) count double.
CREATE STREAM points (hunt VARCHAR KEY, player VARCHAR, points BIGINT, reason VARCHAR)
  WITH (KAFKA_TOPIC = 'points', PARTITIONS = 4, KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON');

INSERT INTO points
  SELECT hunt, player, points, 'treasure' AS reason FROM claimed PARTITION BY hunt EMIT CHANGES;

INSERT INTO points
  SELECT fleet AS hunt, solver AS player, CAST(5 AS BIGINT) AS points, 'clue' AS reason
  FROM solved PARTITION BY fleet EMIT CHANGES;

INSERT INTO points
  SELECT r.fleet AS hunt, r.runner AS player,
         CASE WHEN r.sightings > r.moments THEN CAST(0 AS BIGINT)
              WHEN p.seats < 60 THEN (r.steps + r.on_time) * 2
              ELSE r.steps + r.on_time END AS points,
         'round' AS reason
  FROM rounds_over r LEFT JOIN players p ON r.runner = p.id
  PARTITION BY r.fleet
  EMIT CHANGES;

CREATE TABLE leaderboard WITH (KAFKA_TOPIC = 'leaderboard', PARTITIONS = 4, KEY_FORMAT = 'JSON', VALUE_FORMAT = 'JSON') AS
  SELECT hunt, player,
         AS_VALUE(hunt) AS fleet,
         AS_VALUE(player) AS hunter,
         SUM(points) AS points,
         SUM(CASE WHEN reason = 'treasure' THEN 1 ELSE 0 END) AS treasures,
         SUM(CASE WHEN reason = 'clue' THEN 1 ELSE 0 END) AS clues
  FROM points
  GROUP BY hunt, player
  EMIT CHANGES;
