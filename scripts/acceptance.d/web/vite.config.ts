import react from '@vitejs/plugin-react'
import postcssPresetEnv from 'postcss-preset-env'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [react({ babel: { presets: [['@babel/preset-env', { modules: false }]] } })],
  css: { postcss: { plugins: [postcssPresetEnv()] } },
  build: { sourcemap: true },
})
