package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

type purgeCommand struct {
	Key    *string `xor:"what" placeholder:"HEX" help:"One answer, by its key: cache_key in the access log."`
	Tag    *string `xor:"what" placeholder:"TAG" help:"The answers with a tag, see routes[].cache.tags."`
	Path   *string `xor:"what" placeholder:"PATH" help:"The answers of a path, or with * at its end of all that begin so."`
	Caller *string `xor:"what" placeholder:"ID" help:"The answers that a caller's requests brought, for example key:alice."`
	All    bool    `xor:"what" help:"All answers."`
	operator
	JSON bool `name:"json" help:"Print the answer of the admin API."`
}

// what is the member of the body that says what to purge.
func (c *purgeCommand) what() (kind, value string) {
	for _, one := range []struct {
		kind  string
		value *string
	}{{"key", c.Key}, {"tag", c.Tag}, {"path", c.Path}, {"caller", c.Caller}} {
		if one.value != nil {
			return one.kind, *one.value
		}
	}
	return "all", ""
}

// Validate refuses an empty value, such as that of an unset variable, and
// --all=false.
func (c *purgeCommand) Validate() error {
	switch kind, value := c.what(); {
	case kind == "all" && !c.All:
		return errors.New("want one of --key, --tag, --path, --caller and --all")
	case kind != "all" && value == "":
		return fmt.Errorf(`--%s: "": want what to purge`, kind)
	}
	return nil
}

// Run asks a running Weir to forget answers, and says how many it had.
func (c *purgeCommand) Run(ctx context.Context, out output) error {
	kind, value := c.what()
	body := map[string]any{kind: value}
	if kind == "all" {
		body[kind] = true
	}
	answer, err := c.post(ctx, "/api/v1/cache/purge", body)
	if err != nil {
		return err
	}
	var said struct {
		Removed *int `json:"removed"`
	}
	if err := json.Unmarshal(answer, &said); err != nil || said.Removed == nil {
		return fmt.Errorf("%s: this is not the answer of an admin API: want the admin.listen of a Weir, with --admin URL", c.Admin)
	}
	if c.JSON {
		_, err := out.stdout.Write(append(bytes.TrimSpace(answer), '\n'))
		return err
	}
	what := kind + " " + value
	if kind == "all" {
		what = "everything"
	}
	_, err = fmt.Fprintf(out.stdout, "purged %s: %s removed here\n", what, count(*said.Removed, "answer"))
	return err
}
