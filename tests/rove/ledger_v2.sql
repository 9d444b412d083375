BEGIN TRANSACTION;
CREATE TABLE decisions (
	event_id VARCHAR NOT NULL, 
	user_id VARCHAR NOT NULL, 
	policy VARCHAR NOT NULL, 
	policy_version VARCHAR NOT NULL, 
	release VARCHAR NOT NULL, 
	seed VARCHAR NOT NULL, 
	request_digest VARCHAR NOT NULL, 
	candidates_digest VARCHAR NOT NULL, 
	num_candidates INTEGER NOT NULL, 
	slots TEXT NOT NULL, 
	context TEXT, 
	regulated TEXT, 
	context_vector BLOB, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	activated_at DOUBLE, 
	PRIMARY KEY (event_id)
);
INSERT INTO "decisions" VALUES('e0','ann','shop','1','r1','18446744073709551615','aa','bb',3,'[{"slot":0,"item_id":"apple","score":0.6,"propensity":0.3333333333333333,"reason":"explore"},{"slot":1,"item_id":"pear","score":0.1,"propensity":1.0,"reason":"exploit","explanation":{"item_mean":0.1,"prior":0.2,"history":{"pear":0.3},"other":0.0}}]','{"device":"phone","rain":true,"age":3.5,"note":null}',NULL,X'003C003C003C',100.0,200.25,NULL);
CREATE TABLE interactions (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	interaction_id VARCHAR NOT NULL, 
	user_id VARCHAR NOT NULL, 
	item_id VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	value DOUBLE, 
	duration_s DOUBLE, 
	watch_ratio DOUBLE, 
	text TEXT, 
	timestamp DOUBLE NOT NULL, 
	event_id VARCHAR, 
	slot INTEGER, 
	session VARCHAR, 
	reward DOUBLE NOT NULL, 
	status VARCHAR NOT NULL, 
	received_at DOUBLE NOT NULL, 
	UNIQUE (interaction_id)
);
INSERT INTO "interactions" VALUES(1,'i0','user-0','apple','rating',4.0,NULL,NULL,'fresh 🍏',1.0,'e0',1,'visit',0.75,'accepted',2.0);
INSERT INTO "interactions" VALUES(2,'j0','user-0','apple','rating',4.0,NULL,NULL,'fresh 🍏',1.0,NULL,NULL,'visit',0.75,'accepted',2.0);
CREATE TABLE item_statistics (
	release VARCHAR NOT NULL, 
	item_id VARCHAR NOT NULL, 
	weight DOUBLE NOT NULL, 
	total DOUBLE NOT NULL, 
	as_of DOUBLE NOT NULL, 
	revision BIGINT NOT NULL, 
	PRIMARY KEY (release, item_id)
)
 WITHOUT ROWID

;
INSERT INTO "item_statistics" VALUES('r1','apple',1.5,1.5,9.0,1);
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','2');
INSERT INTO "meta" VALUES('shard','0');
INSERT INTO "meta" VALUES('num_shards','2');
CREATE TABLE settlements (
	release VARCHAR NOT NULL, 
	until DOUBLE NOT NULL, 
	PRIMARY KEY (release)
)
 WITHOUT ROWID

;
CREATE TABLE trial_sums (
	release VARCHAR NOT NULL, 
	item_id VARCHAR NOT NULL, 
	sums BLOB NOT NULL, 
	revision BIGINT NOT NULL, 
	PRIMARY KEY (release, item_id)
)
 WITHOUT ROWID

;
CREATE INDEX decisions_by_expiry ON decisions (expires_at);
CREATE INDEX decisions_by_user ON decisions (user_id);
CREATE INDEX interactions_by_user ON interactions (user_id);
CREATE INDEX interactions_by_event ON interactions (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX item_statistics_by_revision ON item_statistics (release, revision);
CREATE INDEX trial_sums_by_revision ON trial_sums (release, revision);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('interactions',2);
COMMIT;
