-- What callers used, by hour. hour is its beginning in microseconds since the epoch;
-- cost is in 1e-9 USD.
CREATE TABLE weir_usage (
	hour BIGINT NOT NULL,
	caller TEXT NOT NULL,
	route TEXT NOT NULL,
	model TEXT NOT NULL,
	requests BIGINT NOT NULL,
	input_tokens BIGINT NOT NULL,
	cached_tokens BIGINT NOT NULL,
	output_tokens BIGINT NOT NULL,
	hits BIGINT NOT NULL,
	refused BIGINT NOT NULL,
	errors BIGINT NOT NULL,
	cost BIGINT NOT NULL,
	PRIMARY KEY (hour, caller, route, model)
);

-- For what one caller used, which budgets ask for.
CREATE INDEX weir_usage_by_caller ON weir_usage (caller, hour);

-- The batches that have been counted: one that is written again is not.
CREATE TABLE weir_usage_batches (
	id TEXT NOT NULL PRIMARY KEY,
	written BIGINT NOT NULL
);

CREATE INDEX weir_usage_batches_by_time ON weir_usage_batches (written);
