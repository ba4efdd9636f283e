package database

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/inferweir/weir/job"
)

// jobColumns are what scanJob reads of a row of weir_jobs, which is called j.
const jobColumns = `j.id, j.caller, j.plan, j.route, j.state, j.attempt, j.max_attempts, j.not_before, j.fence, j.owner,
	j.lease_until, j.cancel_requested, j.progress_bytes, j.progress_events, j.failure_status, j.failure_detail, j.created,
	j.started, j.finished, j.expires, j.webhook, j.webhook_attempt, j.idempotency_key, j.request_hash, j.account,
	r.head, x.status, x.bytes, x.blob, x.head`

// bodies say which bodies are read with a job.
type bodies int

const (
	noBody bodies = iota
	requestBody
	resultBody
)

// selectJobs is the query for jobs, up to its WHERE.
func selectJobs(b bodies) string {
	body := "NULL, NULL"
	switch b {
	case requestBody:
		body = "r.body, NULL"
	case resultBody:
		body = "NULL, x.body"
	}
	return "SELECT " + jobColumns + ", " + body + ` FROM weir_jobs j
		LEFT JOIN weir_job_requests r ON r.job = j.id LEFT JOIN weir_job_results x ON x.job = j.id `
}

// storedJob is a job and how often its webhook was tried.
type storedJob struct {
	job.Job
	webhookAttempt int
}

// loadJobs runs a query of selectJobs.
func loadJobs(ctx context.Context, q querier, query string, args ...any) (_ []*storedJob, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []*storedJob
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, rows.Err()
}

// loadJob is the job with an ID, of anybody.
func loadJob(ctx context.Context, q querier, id string) (*storedJob, error) {
	jobs, err := loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.id = $1", id)
	if err != nil {
		return nil, err
	}
	if len(jobs) == 0 {
		return nil, job.ErrNotFound
	}
	return jobs[0], nil
}

func scanJob(rows *sql.Rows) (*storedJob, error) {
	var (
		j                                                     storedJob
		cancelRequested, failureStatus                        int64
		notBefore, lease, created, started, finished, expires int64
		failure                                               string
		hash, requestHead, resultHead, requestBody, body      []byte
		status, size                                          sql.NullInt64
		blob                                                  sql.NullString
	)
	if err := rows.Scan(&j.ID, &j.Caller, &j.Plan, &j.Route, &j.State, &j.Attempt, &j.MaxAttempts, &notBefore, &j.Fence, &j.Owner,
		&lease, &cancelRequested, &j.Progress.Bytes, &j.Progress.Events, &failureStatus, &failure, &created,
		&started, &finished, &expires, &j.Webhook, &j.webhookAttempt, &j.IdempotencyKey, &hash, &j.Account,
		&requestHead, &status, &size, &blob, &resultHead, &requestBody, &body); err != nil {
		return nil, err
	}
	for _, s := range []*string{&j.Caller, &j.Plan, &j.Route, &j.Owner, &j.Webhook, &j.IdempotencyKey, &failure, &blob.String} {
		*s = fromText(*s)
	}
	copy(j.RequestHash[:], hash)
	j.Account = nilIfEmpty(j.Account)
	j.CancelRequested = cancelRequested != 0
	j.NotBefore, j.LeaseUntil, j.Created = fromMicros(notBefore), fromMicros(lease), fromMicros(created)
	j.Started, j.Finished, j.Expires = fromMicros(started), fromMicros(finished), fromMicros(expires)
	if failureStatus != 0 || failure != "" {
		j.Failure = &job.Failure{Status: int(failureStatus), Detail: failure}
	}
	if requestHead != nil {
		h, err := decodeHead(requestHead)
		if err != nil {
			return nil, fmt.Errorf("database: the request of job %s: %w", j.ID, err)
		}
		j.Request = job.Request{Method: string(h.Method), URI: string(h.URI), Host: string(h.Host), ID: string(h.ID),
			Header: h.header(), Body: nilIfEmpty(requestBody)}
	}
	if status.Valid {
		h, err := decodeHead(resultHead)
		if err != nil {
			return nil, fmt.Errorf("database: the result of job %s: %w", j.ID, err)
		}
		j.Result = &job.Result{Status: int(status.Int64), Header: h.header(), Body: nilIfEmpty(body), Blob: blob.String, Bytes: size.Int64}
	}
	return &j, nil
}

// head is a request or an answer without its body.
type head struct {
	Method []byte   `json:"m,omitempty"`
	URI    []byte   `json:"u,omitempty"`
	Host   []byte   `json:"h,omitempty"`
	ID     []byte   `json:"i,omitempty"`
	Header []fields `json:"f,omitempty"`
}

// fields are those of one name, which comes first.
type fields [][]byte

func (h head) encode(header http.Header) ([]byte, error) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		f := fields{[]byte(name)}
		for _, v := range header[name] {
			f = append(f, []byte(v))
		}
		h.Header = append(h.Header, f)
	}
	return json.Marshal(h)
}

func decodeHead(b []byte) (head, error) {
	var h head
	err := json.Unmarshal(b, &h)
	return h, err
}

// header is never nil: whoever runs a request adds to it.
func (h head) header() http.Header {
	out := make(http.Header, len(h.Header))
	for _, f := range h.Header {
		if len(f) == 0 {
			continue
		}
		values := make([]string, 0, len(f)-1)
		for _, v := range f[1:] {
			values = append(values, string(v))
		}
		out[string(f[0])] = values
	}
	return out
}

// toText makes of any string one that both databases take as text: valid UTF-8 without
// NUL. It changes few strings, and no two to the same.
func toText(s string) string {
	if utf8.ValidString(s) && !strings.ContainsAny(s, "\\\x00") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == 0 || r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// fromText undoes toText.
func fromText(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && s[i+1] == '\\' {
			i++
		} else if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// toMicros is how a time is stored: microseconds since the epoch, 0 for none.
func toMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func nilIfEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// notNull is b as a value of a column that is not NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// isJobID says whether s has the form of a UUID in lower case. What has not is no job's
// name, and may be bytes that PostgreSQL refuses.
func isJobID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
