// SPDX-License-Identifier: MPL-2.0

// Nullplugin is the floor of every measurement: the least that an external secrets engine can do and still return a lease that Vault can
// revoke. It calls nothing and stores nothing.
package main

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	_ = meta.FlagSet().Parse(os.Args[1:])
	err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory, TLSProviderFunc: api.VaultPluginTLSProvider(meta.GetTLSConfig())})
	if err != nil {
		os.Exit(1)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	lease := &framework.Secret{
		Type:   "null",
		Fields: map[string]*framework.FieldSchema{"token": {Type: framework.TypeString}},
		Renew: func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
			return &logical.Response{Secret: req.Secret}, nil
		},
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	mint := func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		resp := lease.Response(map[string]any{"token": "dapi0000", "token_id": "0000"}, map[string]any{"token_id": "0000"})
		resp.Secret.TTL, resp.Secret.MaxTTL = time.Hour, 2*time.Hour
		return resp, nil
	}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{lease},
		Paths: []*framework.Path{{
			Pattern:    "creds/" + framework.GenericNameRegex("name"),
			Fields:     map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
			Operations: map[logical.Operation]framework.OperationHandler{logical.ReadOperation: &framework.PathOperation{Callback: mint}},
		}},
	}
	return b, b.Setup(ctx, conf)
}
