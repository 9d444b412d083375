CREATE TABLE decisions (
    event_id VARCHAR COLLATE "C" NOT NULL,
    user_id VARCHAR COLLATE "C" NOT NULL,
    policy VARCHAR COLLATE "C" NOT NULL,
    policy_version VARCHAR COLLATE "C" NOT NULL,
    release VARCHAR COLLATE "C" NOT NULL,
    seed VARCHAR COLLATE "C" NOT NULL,
    request_digest VARCHAR COLLATE "C" NOT NULL,
    candidates_digest VARCHAR COLLATE "C" NOT NULL,
    num_candidates INTEGER NOT NULL,
    slots TEXT NOT NULL,
    context TEXT,
    regulated TEXT,
    context_vector BYTEA,
    created_at DOUBLE PRECISION NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL,
    activated_at DOUBLE PRECISION,
    PRIMARY KEY (event_id)
);
CREATE INDEX decisions_by_expiry ON decisions (expires_at);
CREATE INDEX decisions_by_user ON decisions (user_id);
CREATE TABLE interactions (
    sequence BIGSERIAL NOT NULL,
    interaction_id VARCHAR COLLATE "C" NOT NULL,
    user_id VARCHAR COLLATE "C" NOT NULL,
    item_id VARCHAR COLLATE "C" NOT NULL,
    type VARCHAR COLLATE "C" NOT NULL,
    value DOUBLE PRECISION,
    duration_s DOUBLE PRECISION,
    watch_ratio DOUBLE PRECISION,
    text TEXT,
    timestamp DOUBLE PRECISION NOT NULL,
    event_id VARCHAR COLLATE "C",
    slot INTEGER,
    session VARCHAR COLLATE "C",
    reward DOUBLE PRECISION NOT NULL,
    status VARCHAR COLLATE "C" NOT NULL,
    received_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (interaction_id)
);
CREATE INDEX interactions_by_event ON interactions (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX interactions_by_user ON interactions (user_id);
CREATE TABLE item_statistics (
    release VARCHAR COLLATE "C" NOT NULL,
    item_id VARCHAR COLLATE "C" NOT NULL,
    weight DOUBLE PRECISION NOT NULL,
    total DOUBLE PRECISION NOT NULL,
    as_of DOUBLE PRECISION NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (release, item_id)
);
CREATE INDEX item_statistics_by_revision ON item_statistics (release, revision);
CREATE TABLE lease (
    id INTEGER NOT NULL,
    epoch BIGINT NOT NULL,
    holder VARCHAR NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE meta (
    key VARCHAR COLLATE "C" NOT NULL,
    value VARCHAR COLLATE "C" NOT NULL,
    PRIMARY KEY (key)
);
CREATE TABLE settlements (
    release VARCHAR COLLATE "C" NOT NULL,
    until DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (release)
);
CREATE TABLE trial_sums (
    release VARCHAR COLLATE "C" NOT NULL,
    item_id VARCHAR COLLATE "C" NOT NULL,
    sums BYTEA NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (release, item_id)
);
CREATE INDEX trial_sums_by_revision ON trial_sums (release, revision);
INSERT INTO meta VALUES ('schema_version', '3'), ('shard', '0'), ('num_shards', '2');
INSERT INTO lease VALUES (1, 4, 'process 1 on host', 0.0);
