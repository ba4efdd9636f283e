package job

import (
	"context"
	"net"
	"net/http"
)

// SetWebhookTransport has webhooks sent by rt instead of over the network.
func (s *Jobs) SetWebhookTransport(rt http.RoundTripper) { s.hooks.client.Transport = rt }

// DeliverWebhooks runs the loop that Start runs.
func (s *Jobs) DeliverWebhooks(ctx context.Context) { s.deliverWebhooks(ctx) }

// SetWebhookResolver has names of webhooks looked up by r.
func (s *Jobs) SetWebhookResolver(r *net.Resolver) { s.hooks.guard.dialer.Resolver = r }
