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

	// maxTokenFile limits how much of that file is read, in bytes.
	maxTokenFile = 64 << 10

	// defaultIdentityTokenTTL applies if the config sets no identity_token_ttl.
	defaultIdentityTokenTTL = time.Hour
)

// subjectToken returns where the token comes from that is exchanged for an access token: from the operator's file, or from
// Vault's plugin identity tokens, which Enterprise has. It is nil for other auth types.
func (b *backend) subjectToken(config *configEntry) func(context.Context) (client.Secret, error) {
	if config.AuthType != client.AuthOIDC {
		return nil
	}
	if path := os.Getenv(tokenFileVariable); path != "" {
		return func(context.Context) (client.Secret, error) { return tokenFromFile(path) }
	}
	return func(ctx context.Context) (client.Secret, error) {
		ttl := defaultIdentityTokenTTL
		if config.IdentityTokenTTL > 0 {
			ttl = seconds(config.IdentityTokenTTL)
		}
		token, err := b.System().GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{Audience: config.IdentityTokenAudience, TTL: ttl})
		if err != nil {
			// Over gRPC the error has lost its type, so its text is included.
			return "", fmt.Errorf("this Vault makes no identity token for the plugin, which requires Vault Enterprise; with Vault Community, register the plugin with -env=%s=<file>, and have another program keep a token of your identity provider in that file (%w)", tokenFileVariable, err)
		}
		return client.Secret(token.Token.Token()), nil
	}
}

// tokenFromFile reads the token for each exchange, since another program replaces it. No error contains the file's content.
func tokenFromFile(path string) (client.Secret, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the token file that the plugin was registered with can't be read: %w", err)
	}
	defer file.Close()
	raw := make([]byte, maxTokenFile)
	n, err := file.Read(raw)
	token := strings.TrimSpace(string(raw[:n]))
	if err != nil || token == "" || !client.ValidCredential(token) {
		return "", fmt.Errorf("the token file that the plugin was registered with (%s) holds no token: it must hold one JSON web token and nothing else", tokenFileVariable)
	}
	return client.Secret(token), nil
}
