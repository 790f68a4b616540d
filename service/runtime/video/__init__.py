"""Video files: writing frames, reading films, and joining both with sound. FFmpeg is used by PyAV.

PyAV is the extra `video`, and is imported when a video is first read or written.
"""
