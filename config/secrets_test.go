package config_test

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/inferweir/weir/config"
)

// revealed replaces each "(redacted)" in YAML by a secret of its own.
func revealed(text []byte) string {
	parts := strings.Split(string(text), `"(redacted)"`)
	var out strings.Builder
	for i, part := range parts {
		switch {
		case i == 0:
		case strings.HasSuffix(out.String(), " secret: "): // of webhooks
			out.WriteString("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 24)))
		default:
			fmt.Fprintf(&out, "weir_%032d", i)
		}
		out.WriteString(part)
	}
	// Within a URL it is the password.
	return strings.ReplaceAll(out.String(), "(redacted)", "weir_url")
}

// hideSecrets makes configurations comparable that differ in secrets alone.
func hideSecrets(c *config.Config) {
	c.Store.URL = c.Store.Redacted()
	if c.Database != nil {
		c.Database.URL = c.Database.Redacted()
	}
	if c.Blobs != nil {
		c.Blobs.URL, c.Blobs.SigningKey = c.Blobs.Redacted(), ""
	}
	if c.Jobs.Webhooks != nil {
		c.Jobs.Webhooks.Secret = "x"
	}
	if c.Admin.Token != "" {
		c.Admin.Token = "x"
	}
	for i := range c.Callers.Keys {
		c.Callers.Keys[i].Key = "x"
	}
	if c.Telemetry.OTLP != nil {
		for name := range c.Telemetry.OTLP.Headers {
			c.Telemetry.OTLP.Headers[name] = "x"
		}
	}
	for _, u := range c.Upstreams {
		for name := range u.SetHeaders {
			u.SetHeaders[name] = "x"
		}
	}
}
