// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginutil"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	// tokenFileVariable names the file that an operator gave the plugin at registration (vault plugin register -env=…). It is
	// read for auth_type oidc only, and never from the config: who may write that may not read files of the server.
	tokenFileVariable = "DATABRICKS_OIDC_TOKEN_FILEPATH"

	// tokenHostsVariable lists the hosts that this file may be sent to, separated by commas, in the forms that the config's host has. Loopback
	// hosts need no listing.
	tokenHostsVariable = "DATABRICKS_OIDC_TOKEN_HOSTS"

	// maxTokenFile limits how much of that file is read, in bytes.
	maxTokenFile = 64 << 10

	// defaultIdentityTokenTTL applies if the config sets no identity_token_ttl.
	defaultIdentityTokenTTL = time.Hour
)

// tokenFile returns the path of the operator's token file, "" where the plugin was registered without one.
func tokenFile() string { return os.Getenv(tokenFileVariable) }

// checkTokenHost refuses a host that the operator did not list for the token file. Whoever may write a mount's config chooses the host, so
// without the list he could have the operator's token sent to himself. The client sends it to this host alone: it follows no redirect, and
// looks up no other token endpoint.
func checkTokenHost(host string) error {
	if client.IsLoopback(host) {
		return nil
	}
	listed, unreadable := os.Getenv(tokenHostsVariable), ""
	for i, entry := range strings.Split(listed, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		switch origin, err := client.ParseHost(entry); {
		case err != nil:
			unreadable += fmt.Sprintf("; its entry %d is not a host", i+1)
		case origin == host:
			return nil
		}
	}
	name := strings.TrimPrefix(host, "https://")
	if listed != "" {
		// Whoever writes a config need not know the operator's other hosts, nor what else he has put there.
		return badField(keyHost, "identity tokens of this plugin go only to the hosts in %s, and %s is not one of them; if it should get the token, register the plugin with %s added to that variable%s", tokenHostsVariable, name, name, unreadable)
	}
	return badField(keyHost, "the token file of this plugin goes only to hosts that the operator lists; if %s should get the token, register the plugin with -env=%s=%s (exact hosts, comma separated)", name, tokenHostsVariable, name)
}

// subjectToken returns where the token comes from that is exchanged for an access token: from the operator's file, or from
// Vault's plugin identity tokens, which Enterprise has. It is nil for other auth types.
func (b *backend) subjectToken(config *configEntry) func(context.Context) (client.Secret, error) {
	if config.AuthType != client.AuthOIDC {
		return nil
	}
	if path := tokenFile(); path != "" {
		return func(context.Context) (client.Secret, error) {
			// Here rather than when the config is written: it may be an older one.
			if err := checkTokenHost(config.Host); err != nil {
				return "", err
			}
			return tokenFromFile(path)
		}
	}
	return func(ctx context.Context) (client.Secret, error) {
		if os.Getenv(tokenHostsVariable) != "" {
			// Vault's own tokens are worth as much: the audience is no secret, so it does not keep one from another host.
			if err := checkTokenHost(config.Host); err != nil {
				return "", err
			}
		}
		if config.IdentityTokenAudience == "" {
			return "", badField(keyIdentityTokenAudience, "is missing; a token file needs none, but this plugin is registered without %s", tokenFileVariable)
		}
		ttl := defaultIdentityTokenTTL
		if config.IdentityTokenTTL > 0 {
			ttl = seconds(config.IdentityTokenTTL)
		}
		token, err := b.System().GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{Audience: config.IdentityTokenAudience, TTL: ttl})
		if err != nil {
			// Over gRPC the error has lost its type, so its text is included.
			return "", badField(keyAuthType, "this Vault makes no identity token for the plugin, which requires Vault Enterprise; with Vault Community, register the plugin with -env=%s=<file> -env=%s=<host>, and have another program, such as Vault Agent, keep a token of an identity provider in that file (%s)", tokenFileVariable, tokenHostsVariable, err)
		}
		return client.Secret(token.Token.Token()), nil
	}
}

// tokenFromFile reads the token for each exchange, since another program replaces it. No error contains the file's content.
func tokenFromFile(path string) (client.Secret, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", badField(keyAuthType, "the token file that the plugin was registered with can't be read: %s", err)
	}
	defer file.Close()
	raw := make([]byte, maxTokenFile)
	n, err := file.Read(raw)
	token := strings.TrimSpace(string(raw[:n]))
	if err != nil || token == "" || !client.ValidCredential(token) {
		return "", badField(keyAuthType, "the token file that the plugin was registered with (%s) holds no token: it must hold one JSON web token and nothing else", tokenFileVariable)
	}
	return client.Secret(token), nil
}
