-- A database of the first version, as its gateway and control plane left it in the middle of a canary: version 2 of
-- cartpole against champion 1, whose last transition was killed before its writes. SERIAL_KEY is each engine's own.

CREATE TABLE episodes (
    start_seq SERIAL_KEY,
    episode VARCHAR(64) NOT NULL,
    policy VARCHAR(128) NOT NULL,
    generation VARCHAR(64) NOT NULL,
    unit VARCHAR(256) NOT NULL,
    arm VARCHAR(16) NOT NULL,
    version VARCHAR(32) NOT NULL,
    started_at FLOAT NOT NULL,
    UNIQUE (episode)
);

CREATE INDEX ix_episodes_canary ON episodes (policy, generation, start_seq);

CREATE TABLE outcomes (
    outcome_seq SERIAL_KEY,
    episode VARCHAR(64) NOT NULL,
    policy VARCHAR(128) NOT NULL,
    generation VARCHAR(64) NOT NULL,
    arm VARCHAR(16) NOT NULL,
    version VARCHAR(32) NOT NULL,
    episode_return FLOAT NOT NULL,
    length INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    recorded_at FLOAT NOT NULL,
    UNIQUE (episode)
);

CREATE INDEX ix_outcomes_canary ON outcomes (policy, generation, outcome_seq);

CREATE INDEX ix_outcomes_policy ON outcomes (policy, version, outcome_seq);

CREATE TABLE arm_stats (
    policy VARCHAR(128) NOT NULL,
    generation VARCHAR(64) NOT NULL,
    version VARCHAR(32) NOT NULL,
    arm VARCHAR(16) NOT NULL,
    worker VARCHAR(64) NOT NULL,
    stats JSON NOT NULL,
    updated_at FLOAT NOT NULL,
    PRIMARY KEY (policy, generation, version, arm, worker)
);

CREATE TABLE fault_events (
    id SERIAL_KEY,
    policy VARCHAR(128) NOT NULL,
    version VARCHAR(32) NOT NULL,
    package_sha256 VARCHAR(64) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    detail TEXT NOT NULL,
    worker VARCHAR(64) NOT NULL,
    at FLOAT NOT NULL
);

CREATE INDEX ix_fault_events_policy ON fault_events (policy, id);

CREATE TABLE overrides (
    id SERIAL_KEY,
    policy VARCHAR(128) NOT NULL,
    user_id VARCHAR(256),
    episode VARCHAR(64),
    action JSON NOT NULL,
    force BOOLEAN NOT NULL,
    who VARCHAR(256) NOT NULL,
    reason TEXT NOT NULL,
    set_at FLOAT NOT NULL,
    until FLOAT NOT NULL,
    cleared_at FLOAT,
    cleared_by VARCHAR(256)
);

CREATE INDEX ix_overrides_policy ON overrides (policy, until);

CREATE TABLE leases (
    policy VARCHAR(128) NOT NULL,
    holder VARCHAR(256) NOT NULL,
    fence BIGINT NOT NULL,
    expires_at FLOAT NOT NULL,
    PRIMARY KEY (policy)
);

CREATE TABLE intents (
    id SERIAL_KEY,
    policy VARCHAR(128) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    fence BIGINT NOT NULL,
    who VARCHAR(256) NOT NULL,
    reason TEXT NOT NULL,
    writes JSON NOT NULL,
    state VARCHAR(16) NOT NULL,
    created_at FLOAT NOT NULL,
    done_at FLOAT
);

CREATE INDEX ix_intents_policy ON intents (policy, state, id);

INSERT INTO episodes (episode, policy, generation, unit, arm, version, started_at)
WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 120)
SELECT 'first-' || i, 'cartpole', '2-0f0e0d0c0b0a0908', 'unit-' || i,
    CASE WHEN i - i / 2 * 2 = 0 THEN 'control' ELSE 'challenger' END, CASE WHEN i - i / 2 * 2 = 0 THEN '1' ELSE '2' END,
    1700000000.0 + i
FROM numbers;

INSERT INTO episodes (episode, policy, generation, unit, arm, version, started_at)
VALUES ('ffffffffffffffffffffffffffffffff', 'cartpole', '2-0f0e0d0c0b0a0908', 'running', 'challenger', '2', 4000000000.0);

INSERT INTO outcomes (episode, policy, generation, arm, version, episode_return, length, kind, recorded_at)
SELECT episode, policy, generation, arm, version, CASE WHEN arm = 'control' THEN 200 ELSE 230 END + start_seq / 6, 200,
    'reported', started_at + 10
FROM episodes WHERE unit <> 'running';

INSERT INTO outcomes (episode, policy, generation, arm, version, episode_return, length, kind, recorded_at)
VALUES ('outside', 'cartpole', '', 'champion', '1', 200.5, 200, 'reported', 1690000000.0);

INSERT INTO arm_stats (policy, generation, version, arm, worker, stats, updated_at)
VALUES ('cartpole', '', '1', 'champion', 'w1',
    '{"decisions": 600, "requests": 600, "sources": {"policy": 600, "fallback": 0, "override": 0}, "faults": {"non_finite": 0, "exception": 0, "deadline": 0}, "adjusted": {}, "rejected": {}, "latency": {"buckets": [5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0], "counts": [0, 600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "sum": 0.05}, "actions": {"0": 300, "1": 300}, "episodes": 60, "return_sum": 12000.0, "length_sum": 12000, "breaker_open": false, "observation_out_of_range": 0}',
    1690000001.0);

INSERT INTO fault_events (policy, version, package_sha256, kind, detail, worker, at)
VALUES ('cartpole', '0', 'cafe', 'breaker_open', '5 faults in a row', 'w1', 1680000000.0);

INSERT INTO overrides (policy, user_id, episode, action, force, who, reason, set_at, until, cleared_at, cleared_by)
VALUES ('cartpole', 'vip', NULL, '1', FALSE, 'ada', 'a visit', 1700000000.0, 4000000000.0, NULL, NULL),
    ('cartpole', NULL, NULL, '0', TRUE, 'bob', 'a drill', 1690000000.0, 1690000060.0, 1690000030.0, 'bob');

INSERT INTO leases (policy, holder, fence, expires_at) VALUES ('cartpole', 'release r2 on a machine that is gone', 7, 1700000100.0);

INSERT INTO intents (policy, kind, fence, who, reason, writes, state, created_at, done_at)
VALUES ('cartpole', 'promote', 5, 'release r1', 'it won', '[{"op": "set_alias", "alias": "champion", "version": "1"}]',
        'done', 1680000000.0, 1680000001.0),
    ('cartpole', 'set_weight', 7, 'release r2', 'step 2',
        '[{"op": "set_tag", "key": "canary", "value": "{\"generation\": \"2-0f0e0d0c0b0a0908\", \"champion\": \"1\", \"version\": \"2\", \"weight\": 0.5, \"salt\": \"00ff\", \"step\": 2, \"started_at\": 1700000000.0}"}]',
        'pending', 1700000050.0, NULL);
